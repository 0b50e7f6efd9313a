"""Figures of metrics, scores and training, readable without color.

Lines differ in marker and dash as well as in color. The colors are those of Okabe and Ito, "Color Universal Design",
2008. Maps use cividis (Nuñez et al., PLOS ONE 2018), whose lightness increases uniformly.
"""

import base64
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import IO, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from moleflow.utils.text import one_line

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "moleflow",
    "text.parse_math": False,  # names may contain dollar signs
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555",
    "axes.grid": True,
    "grid.color": "#ddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
}

_MAX_BESIDE = 16  # entries of a legend beside the axes; more are below them
_LEGEND_COLUMNS = 6
_MAX_TEXT = 120  # characters of a name in a figure
_MAX_POSITION = 1e15  # of a value on an axis; texts such as "inf" and "1e999" are names instead

CJK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK SC", "Noto Sans CJK TC", "Source Han Sans", "Noto Sans KR",
    "Noto Sans JP", "Noto Sans SC", "NanumGothic", "UnDotum", "IPAGothic", "IPAexGothic", "TakaoGothic",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Apple SD Gothic Neo", "Hiragino Sans",
    "PingFang SC", "Malgun Gothic", "Yu Gothic", "MS Gothic", "Microsoft YaHei", "SimHei", "Arial Unicode MS",
)  # fmt: skip
"""Families with Chinese, Japanese or Korean characters on Linux, macOS and Windows.

Those that are installed draw the characters that the default font lacks.
"""


@dataclass(frozen=True)
class Plot:
    """A figure with its caption.

    Attributes:
        title: First part of the caption.
        uri: The image as a data URI.
        note: Explanation in the caption.
        wide: Whether it needs the full width of the page.
        photo: Whether its colors have a meaning of their own, so that a dark page must not invert them.
    """

    title: str
    uri: str
    note: str = ""
    wide: bool = False
    photo: bool = False


def figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and the list of its axes.

    Args:
        width: Width in inches.
        height: Height in inches.
        columns: Number of columns of axes.
        rows: Number of rows of axes.
    """
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.subplots(rows, columns, squeeze=False)
    return fig, list(axes.ravel())


def svg_data_uri(fig: Figure) -> str:
    """Return a figure as SVG in a data URI; equal figures result in equal text."""
    out = io.BytesIO()
    with mpl.rc_context(STYLE):
        save_figure(fig, out, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def save_figure(fig: Figure, target: Path | IO[bytes], **options: Any) -> None:
    """Write a figure, with installed fonts for Chinese, Japanese and Korean characters.

    Args:
        fig: The figure.
        target: The file to write.
        options: Arguments of :meth:`matplotlib.figure.Figure.savefig`.
    """
    installed = {font.name for font in fontManager.ttflist}
    fallbacks = [name for name in CJK_FONTS if name in installed]
    style: dict[Any, Any] = {"font.family": [*mpl.rcParams["font.family"], *fallbacks]} if fallbacks else {}
    style["text.parse_math"] = False
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # no font has the character
        for text in fig.findobj(Text):
            text.set_parse_math(False)  # names may contain dollar signs
            text.set_text(one_line(text.get_text(), _MAX_TEXT))
            if fallbacks:
                text.set_fontfamily([*text.get_fontfamily(), *fallbacks])
        fig.savefig(target, **options)


def line_styles() -> Iterable[dict[str, Any]]:
    """Yield an endless series of line styles that differ in color, marker and dash."""
    for color, marker, dash in zip(cycle(COLORS), cycle(MARKERS), cycle(DASHES), strict=False):
        yield {"color": color, "marker": marker, "linestyle": dash, "markersize": 5, "linewidth": 1.4}


def effect_plot(key: str, lines: Sequence[tuple[str, Sequence[tuple[str, float, float | None]]]], metric: str) -> Plot:
    """Plot a metric over the values of one key.

    Args:
        key: The key.
        lines: Name and points of each line; a point is the value as text, the mean, and the standard deviation or None.
        metric: Name of the metric.
    """
    values = list(dict.fromkeys(value for _, points in lines for value, _, _ in points))
    numeric = all(_is_number(value) for value in values)
    fig, (ax,) = figure(4.6, 3.1)
    order = sorted(values, key=float) if numeric else values
    for (name, points), style in zip(lines, line_styles(), strict=False):
        x = [float(value) if numeric else float(order.index(value)) for value, _, _ in points]
        y = [mean for _, mean, _ in points]
        bars = [std or 0.0 for _, _, std in points]
        if not numeric:
            style = style | {"linestyle": "none"}
        ax.errorbar(x, y, yerr=bars if any(bars) else None, capsize=3, label=name, **style)
    if numeric:
        positive = [float(value) for value in order if float(value) > 0]
        if positive and max(positive) / min(positive) >= 30:
            ax.set_xscale("symlog", linthresh=min(positive))
        ax.set_xticks([float(value) for value in order], order)
        ax.minorticks_off()
    else:
        ax.set_xticks(range(len(order)), order)
        ax.margins(x=0.2)
    ax.set_xlabel(key)
    ax.set_ylabel(metric)
    if len(lines) > 1:
        ax.legend(fontsize=7)
    return Plot(f"{metric} over {key}", svg_data_uri(fig))


def pareto_plot(
    dataset: str, points: Sequence[tuple[str, float, float]], front: Sequence[tuple[float, float]], target: float | None
) -> Plot:
    """Plot pixel AP over image AUROC with the Pareto front.

    Args:
        dataset: Name of the data set.
        points: Name, image AUROC and pixel AP of each configuration.
        front: The points on the Pareto front, by ascending image AUROC.
        target: Target pixel AP, drawn as a line; None for none.
    """
    fig, (ax,) = figure(7.2, 3.6)
    if target is not None:
        ax.axhline(target, color="#000", linestyle=":", linewidth=1)
        ax.annotate(f"target {target:g}", (0, target), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    on_front = set(front)
    rest = [(x, y) for _, x, y in points if (x, y) not in on_front]
    if rest:
        ax.scatter(
            [x for x, _ in rest],
            [y for _, y in rest],
            s=22,
            facecolors="none",
            edgecolors=COLORS[0],
            label="configuration",
        )
    x, y = zip(*front, strict=True)
    ax.plot(x, y, color=COLORS[1], marker="D", markersize=5, linewidth=1.2, label="Pareto front")
    for i, (name, a, b) in enumerate(point for point in points if point[1:] in on_front):
        above = i % 2 == 0  # labels of neighbors do not overlap
        ax.annotate(
            name, (a, b), textcoords="offset points", xytext=(-5, 5) if above else (5, -5), fontsize=8,
            ha="right" if above else "left", va="bottom" if above else "top",
        )  # fmt: skip
    ax.set_xlabel("image AUROC")
    ax.set_ylabel("pixel AP")
    ax.legend(fontsize=8, loc="best")
    title = f"Pixel AP over image AUROC ({dataset})"
    note = "No configuration is better in both metrics than one on the Pareto front."
    return Plot(title, svg_data_uri(fig), note, wide=True)


def heat_map(
    title: str, values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str],
    row_title: str, column_title: str, digits: int = 2, color_range: tuple[float, float] = (0.0, 1.0),
) -> Plot:  # fmt: skip
    """Plot a matrix with :func:`heat_map_figure`."""
    fig = heat_map_figure(values, rows, columns, row_title, column_title, digits, color_range)
    return Plot(title, svg_data_uri(fig))


def heat_map_figure(
    values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str],
    row_title: str, column_title: str, digits: int = 2, color_range: tuple[float, float] = (0.0, 1.0),
) -> Figure:  # fmt: skip
    """Return a matrix as colored cells with their values; None is an empty cell.

    Args:
        values: The matrix.
        rows: Labels of the rows.
        columns: Labels of the columns.
        row_title: Label of the vertical axis.
        column_title: Label of the horizontal axis.
        digits: Decimal places of the values.
        color_range: Values of the darkest and the brightest color.
    """
    matrix = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            matrix[i, j] = np.nan if value is None else value
    cell = 0.52
    fig, (ax,) = figure(1.9 + cell * len(columns), 1.5 + 0.36 * len(rows))
    low, high = color_range
    ax.imshow(matrix, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    for (i, j), value in np.ndenumerate(matrix):
        if not np.isnan(value):
            dark = value < low + 0.55 * (high - low)
            ax.text(
                j, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=7.5, color="#fff" if dark else "#000"
            )
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.set_xlabel(column_title)
    ax.set_ylabel(row_title)
    ax.grid(False)
    return fig


def learning_curves(epochs: Sequence[Sequence[Mapping[str, float]]], tasks: Sequence[str]) -> Figure:
    """Return the training loss over the epochs of all tasks.

    Args:
        epochs: One list per task with the ``loss`` of each epoch.
        tasks: Names of the tasks.
    """
    fig, (ax,) = figure(7.2, 3.2)
    start = 0
    for name, history, style in zip(tasks, epochs, line_styles(), strict=False):
        x = [start + i + 1 for i in range(len(history))]
        ax.plot(x, [entry.get("loss", np.nan) for entry in history], label=name, **(style | {"markersize": 0}))
        if history:
            ax.annotate(
                name, (x[0], history[0].get("loss", np.nan)), fontsize=7, textcoords="offset points", xytext=(2, 4)
            )
            ax.axvline(start + 0.5, color="#bbb", linewidth=0.6)
        start += len(history)
    ax.set_xlabel("epoch of the run")
    ax.set_ylabel("loss")
    return fig


def score_histograms(scores: Mapping[str, tuple[Sequence[float], Sequence[int]]]) -> Figure:
    """Return a histogram per category of the image scores of normal and defective images.

    Args:
        scores: Image scores and labels (1 is a defect) by category.
    """
    columns = min(4, len(scores))
    rows = -(-len(scores) // columns)
    fig, axes = figure(2.4 * columns, 1.8 * rows, columns, rows)
    for ax in axes[len(scores) :]:
        ax.set_visible(False)
    for ax, (category, (values, labels)) in zip(axes, scores.items(), strict=False):
        normal = [v for v, label in zip(values, labels, strict=True) if not label]
        defective = [v for v, label in zip(values, labels, strict=True) if label]
        bins = np.histogram_bin_edges(np.asarray(values, float), bins=16).tolist()
        ax.hist(normal, bins=bins, color=COLORS[0], alpha=0.55, label="normal")
        ax.hist(defective, bins=bins, histtype="step", hatch="///", color=COLORS[1], linewidth=1.2, label="defective")
        ax.set_title(category)
        ax.tick_params(labelsize=7)
    fig.supxlabel("image score", fontsize=8)
    fig.supylabel("images", fontsize=8)
    fig.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside upper right", ncols=2)
    return fig


def roc_and_precision(scores: Mapping[str, tuple[Sequence[float], Sequence[int]]]) -> Figure:
    """Return the ROC curve and the precision-recall curve of each category's image scores.

    Args:
        scores: Image scores and labels (1 is a defect) by category. Categories with one class are left out.
    """
    rows = -(-len(scores) // _LEGEND_COLUMNS) if len(scores) > _MAX_BESIDE else 0  # of a legend below the axes
    fig, (roc, precision) = figure(8.0, 3.6 + 0.17 * rows, 2)
    for (category, (values, labels)), style in zip(scores.items(), line_styles(), strict=False):
        order = np.argsort(-np.asarray(values, float), kind="stable")
        ranked, is_defect = np.asarray(values, float)[order], np.asarray(labels, bool)[order]
        if is_defect.all() or not is_defect.any():
            continue
        last = np.append(ranked[1:] != ranked[:-1], True)  # equal scores have one threshold
        true, false = np.cumsum(is_defect)[last], np.cumsum(~is_defect)[last]
        line = style | {"markersize": 0}
        roc.step(np.append(0, false / false[-1]), np.append(0, true / true[-1]), where="post", label=category, **line)
        recall = np.append(0, true / true[-1])
        precision.step(recall, np.append(1, true / (true + false)), where="pre", label=category, **line)
    roc.set_xlabel("false positive rate")
    roc.set_ylabel("true positive rate")
    precision.set_xlabel("recall")
    precision.set_ylabel("precision")
    for ax in (roc, precision):
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.04)
    if roc.lines and rows:
        fig.legend(*roc.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=_LEGEND_COLUMNS)
    elif roc.lines:
        precision.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) <= _MAX_POSITION
    except ValueError:
        return False
