"""The numbers in a matrix can be read on the colour that they stand on."""

import pytest
from matplotlib.colors import to_rgb

from moleflow.report.plots import heat_map_figure


def test_the_best_value_is_bright_and_the_worst_dark_whatever_else_is_there() -> None:
    for values in ([[1.0, 1.0]], [[0.2, 1.0]], [[0.0, 1.0]]):
        (image,) = heat_map_figure(values, ["a"], ["a", "b"], "after", "on").axes[0].images
        assert (image.norm(1.0), image.norm(0.0)) == (1.0, 0.0)


@pytest.mark.parametrize("values", [[[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.3], [0.6, 1.0]]])
def test_numbers_stand_out_from_their_cells(values: list[list[float]]) -> None:
    (ax,) = heat_map_figure(values, ["a", "b"], ["a", "b"], "after", "on").axes
    (image,) = ax.images
    cells = [value for row in values for value in row]
    for value, text in zip(cells, ax.texts, strict=True):
        cell, ink = (sum(colour[:3]) / 3 for colour in (image.cmap(image.norm(value)), to_rgb(text.get_color())))
        assert abs(cell - ink) > 0.4
