"""Tests of the figure of examples."""

from itertools import pairwise

import numpy as np

from moleflow.visualization.examples import Example, examples_figure


def test_titles_do_not_reach_the_next_image() -> None:
    example = Example(
        image=np.zeros((64, 64, 3), np.uint8),
        mask=None,
        anomaly_map=np.eye(16, dtype=np.float32),
        score=178.391,
        threshold=115.888,
        pixel_threshold=0.5,
        title="structural_anomalies/a_long_name_of_a_camera_0001.png",
        reason="scratch_head: scored like a normal image",
        expert="a_category_with_a_long_name",
    )
    figure = examples_figure("category", [example, example])
    figure.canvas.draw()
    for row in (figure.axes[:4], figure.axes[4:8]):
        boxes = [ax.get_tightbbox() for ax in row]
        assert all(box.x1 <= following.x0 for box, following in pairwise(boxes))
