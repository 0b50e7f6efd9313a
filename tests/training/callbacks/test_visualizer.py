"""Tests of the figures of a finished run."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from helpers.detectors import SmallRun
from moleflow.visualization.examples import example_strip, rank_defects


def test_run_folder_has_all_figures(small_run: SmallRun) -> None:
    names = {path.name for path in (small_run.folder / "pictures").iterdir()}
    assert names == {
        "examples_bottle.jpg",
        "examples_screw.jpg",
        "curves.png",
        "scores.png",
        "learning.png",
        "routing.png",
        "defect_best.jpg",
        "defect_median.jpg",
        "defect_worst.jpg",
        "defects.json",
    }
    for name in names - {"defects.json"}:
        with Image.open(small_run.folder / "pictures" / name) as image:
            assert image.size[0] > 150


def test_defects_are_ranked_by_their_separation(small_run: SmallRun) -> None:
    described = json.loads((small_run.folder / "pictures" / "defects.json").read_text())
    separations = [described[rank]["separation"] for rank in ("best", "median", "worst")]
    assert separations == sorted(separations, reverse=True)
    with (small_run.folder / "scores.csv").open() as file:
        scores = {row["path"]: float(row["image_score"]) for row in csv.DictReader(file)}
    for entry in described.values():
        assert scores[f"{entry['category']}/test/{entry['image']}"] == entry["score"]


def test_rank_of_defects() -> None:
    scores = {
        "a": ([0.0, 2.0, 5.0, 3.0], [0, 0, 1, 1]),
        "b": ([1.0, 1.0, 9.0], [0, 0, 1]),
        "c": ([4.0, 6.0, 1.0], [0, 0, 1]),
    }
    std = 2**0.5
    assert rank_defects(scores) == [  # the normal images of b have equal scores
        ("best", "a", 2, pytest.approx(4 / std)), ("median", "a", 3, pytest.approx(2 / std)),
        ("worst", "c", 2, pytest.approx(-4 / std)),
    ]  # fmt: skip
    assert [rank for rank, *_ in rank_defects({"a": ([0.0, 2.0, 5.0], [0, 0, 1])})] == ["best"]
    assert rank_defects({"a": ([1.0], [1])}) == []


def test_strips_have_image_truth_and_map() -> None:
    image = np.full((10, 20, 3), (200, 0, 0), np.uint8)
    mask = np.ones((10, 20), bool)
    strip = example_strip(image, mask, np.zeros((5, 10), np.float32), 0.0, 1.0, size=8)
    assert strip.size == (3 * 16 + 8, 8)
    assert strip.getpixel((8, 4)) == (200, 0, 0)
    assert strip.getpixel((28, 4)) == (255, 255, 255)
    assert strip.getpixel((48, 4)) == (0, 0, 3)  # the darkest color of inferno
    assert example_strip(image, None, np.zeros((5, 10), np.float32), 0.0, 0.0).getpixel((400, 96)) == (0, 0, 0)
