"""Tests of the heat map's colors, the readability of its values, and fonts of names in other scripts."""

import base64
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.colors import to_rgb
from matplotlib.font_manager import fontManager
from numpy.typing import NDArray
from PIL import Image

from moleflow.visualization.plots import (
    CJK_FONTS,
    heat_map_figure,
    roc_and_precision,
    save_figure,
    svg_data_uri,
)


@pytest.fixture
def cjk_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a font whose one character, 한, is a black square; return its family."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("한"): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": CJK_FONTS[0], "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "font.ttf")
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font.name not in CJK_FONTS])
    fontManager.addfont(tmp_path / "font.ttf")
    return CJK_FONTS[0]


def dark_share(name: str) -> float:
    """Return the share of black pixels in a figure with a name as labels and as its title."""
    fig = heat_map_figure([[1.0]], [name * 4], [name * 4], "after", "on")
    fig.suptitle(name * 4)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(fig, file, format="png", dpi=90)
    pixels: NDArray[np.uint8] = np.asarray(Image.open(file).convert("L"))
    return float((pixels < 64).mean())


def test_korean_names_are_drawn_with_an_installed_font(cjk_font: str) -> None:
    assert dark_share("한") > 2 * dark_share("글")  # the font has the first character only
    uri = svg_data_uri(heat_map_figure([[1.0]], ["한"], ["b"], "after", "on"))
    assert cjk_font in base64.b64decode(uri.partition(",")[2]).decode()


def test_names_without_a_font_do_not_warn(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font.name not in CJK_FONTS])
    assert dark_share("한") > 0
    assert not caplog.records


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


def test_curves_of_many_categories_have_a_legend_below_the_axes() -> None:
    scores = {f"category{i}": ([0.1, 0.2, 0.3], [0, 1, 1]) for i in range(60)}
    assert svg_data_uri(roc_and_precision(scores))  # a legend beside the axes would leave no room for them
