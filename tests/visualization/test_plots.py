"""Tests of the heat map's colors and of the readability of its values."""

import pytest
from matplotlib.colors import to_rgb

from moleflow.visualization.plots import heat_map_figure


@pytest.mark.parametrize("values", [[[1.0, 1.0]], [[0.2, 1.0]], [[0.0, 1.0]]])
def test_colors_do_not_depend_on_the_range_of_the_values(values: list[list[float]]) -> None:
    (image,) = heat_map_figure(values, ["a"], ["a", "b"], "after", "on").axes[0].images
    assert (image.norm(1.0), image.norm(0.0)) == (1.0, 0.0)


@pytest.mark.parametrize("values", [[[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.3], [0.6, 1.0]]])
def test_values_contrast_with_their_cells(values: list[list[float]]) -> None:
    (ax,) = heat_map_figure(values, ["a", "b"], ["a", "b"], "after", "on").axes
    (image,) = ax.images
    cells = [value for row in values for value in row]
    for value, text in zip(cells, ax.texts, strict=True):
        cell, ink = (sum(color[:3]) / 3 for color in (image.cmap(image.norm(value)), to_rgb(text.get_color())))
        assert abs(cell - ink) > 0.4
