"""Figures of example images with ground truth, anomaly map and contour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from moleflow.visualization.plots import figure

_TITLE_WIDTH = 30
"""Characters of a line above an image, so that it does not reach the next image."""


@dataclass(frozen=True, eq=False)
class Example:
    """One row of the figure.

    Attributes:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, true on the defect; None without marked pixels.
        anomaly_map: (h, w) float32.
        score: Image score.
        threshold: Score threshold of the expert; None if there is none.
        pixel_threshold: Threshold of the expert's anomaly maps; None if there is none.
        title: File name.
        reason: Defect and why the image was selected.
        expert: The expert that scored the image.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    anomaly_map: NDArray[np.float32]
    score: float
    threshold: float | None
    pixel_threshold: float | None
    title: str
    reason: str
    expert: str


def select_examples(scores: ArrayLike, labels: Sequence[int], per_kind: int) -> list[tuple[str, int]]:
    """Return which images to show and why: the most and least anomalous, and the misranked ones.

    Misranked are the normal images with the highest scores above some defect, and the defects with the lowest scores
    below some normal image.

    Args:
        scores: (N,) image scores.
        labels: (N,) 1 for a defect.
        per_kind: Number of images of each kind.

    Returns:
        Reason and index of each image, in descending order of the score.
    """
    values = np.asarray(scores)
    order = np.argsort(-values, kind="stable").tolist()
    normal, defects = ([i for i in order if bool(labels[i]) == is_defect] for is_defect in (False, True))
    extreme = [("most anomalous", i) for i in order[:per_kind]]
    extreme += [("least anomalous", i) for i in order[::-1][:per_kind]]
    misranked = [("scored like a defect", i) for i in normal if defects and values[i] > values[defects[-1]]][:per_kind]
    misranked += [("scored like a normal image", i) for i in defects[::-1] if normal and values[i] < values[normal[0]]][
        :per_kind
    ]
    reasons: dict[int, str] = {}
    for reason, i in [*misranked, *extreme]:
        reasons.setdefault(i, reason)
    return sorted(((reason, i) for i, reason in reasons.items()), key=lambda pair: -float(values[pair[1]]))


def rank_defects(
    scores: Mapping[str, tuple[Sequence[float], Sequence[int]]],
) -> list[tuple[str, str, int, float]]:
    """Return the defects of all categories that are best, median and worst separated from the normal images.

    The separation of a defect is its image score minus the mean over the normal test images of its category, in
    standard deviations of these. Categories with fewer than two different scores of normal images are left out.

    Args:
        scores: Image scores and labels (1 is a defect) by category.

    Returns:
        Rank (``best``, ``median``, ``worst``), category, index of the image in its category, and separation; fewer
        with fewer than three defects.
    """
    defects: list[tuple[float, str, int]] = []
    for category, (values, labels) in scores.items():
        normal = np.asarray([value for value, label in zip(values, labels, strict=True) if not label], float)
        std = float(normal.std(ddof=1)) if len(normal) > 1 else 0.0
        if std > 0:
            mean = float(normal.mean())
            defects += [((values[i] - mean) / std, category, i) for i, label in enumerate(labels) if label]
    defects.sort(key=lambda defect: -defect[0])
    positions = {"best": 0, "median": len(defects) // 2, "worst": len(defects) - 1}
    ranked = [(rank, *defects[i][1:], defects[i][0]) for rank, i in positions.items() if defects]
    return ranked[: len(defects)]


def example_strip(
    image: NDArray[np.uint8], mask: NDArray[np.bool_] | None, anomaly_map: NDArray[np.float32],
    low: float, high: float, size: int = 192,
) -> Image.Image:  # fmt: skip
    """Return image, ground truth and anomaly map side by side.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool; None is drawn as an empty mask.
        anomaly_map: (h, w) anomaly map.
        low: Map value of the darkest color.
        high: Map value of the brightest color.
        size: Height of the strip in pixels.
    """
    shape = (max(1, round(size * image.shape[1] / image.shape[0])), size)
    truth = np.zeros(image.shape[:2], bool) if mask is None else mask
    colors = mpl.colormaps["inferno"]((anomaly_map - low) / max(high - low, 1e-12), bytes=True)[..., :3]
    tiles = [
        Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC),
        Image.fromarray(truth).convert("RGB").resize(shape, Image.Resampling.NEAREST),
        Image.fromarray(colors).resize(shape, Image.Resampling.BILINEAR),
    ]
    gap = 4
    strip = Image.new("RGB", (3 * shape[0] + 2 * gap, size), "white")
    for i, tile in enumerate(tiles):
        strip.paste(tile, (i * (shape[0] + gap), 0))
    return strip


def examples_figure(category: str, examples: Sequence[Example]) -> Figure:
    """Return image, ground truth, anomaly map and contour of each example; all maps share one color scale.

    Args:
        category: The category, for the title.
        examples: The rows, at least one.
    """
    maps = np.stack([example.anomaly_map for example in examples])
    low, high = float(np.quantile(maps, 0.02)), float(maps.max())
    result, axes = figure(2.1 * 4, 2.3 * len(examples), 4, len(examples))
    for row, example in enumerate(examples):
        cells = axes[4 * row : 4 * row + 4]
        height, width = example.image.shape[:2]
        extent = (0, width, height, 0)  # the map may have another resolution than the image
        mask = np.zeros((height, width), bool) if example.mask is None else example.mask
        cells[0].imshow(example.image)
        cells[1].imshow(mask, cmap="gray", vmin=0, vmax=1)
        drawn = cells[2].imshow(example.anomaly_map, cmap="inferno", vmin=low, vmax=high, extent=extent)
        cells[3].imshow(example.image, extent=extent)
        _draw_contour(cells[3], example.anomaly_map, example.pixel_threshold, extent)
        titles = (
            example.title,
            example.reason,
            f"score {example.score:.5g}, "
            + ("no threshold" if example.threshold is None else f"threshold {example.threshold:.5g}"),
            f"expert {example.expert}",
        )
        for ax, title in zip(cells, titles, strict=True):
            ax.set_title(fill(title, _TITLE_WIDTH), fontsize=6.5, loc="left")
            ax.set_axis_off()
    result.set_layout_engine("compressed")  # cells of fixed aspect: avoids gaps between them and the color bar
    result.colorbar(drawn, ax=axes, location="bottom", shrink=0.25, aspect=12, pad=0.01).ax.tick_params(labelsize=6)
    result.suptitle(f"{category}: image, ground truth, anomaly map, contour at the pixel threshold", fontsize=9)
    return result


def _draw_contour(
    ax: Axes, anomaly_map: NDArray[np.float32], level: float | None, extent: tuple[float, float, float, float]
) -> None:
    if level is not None and float(anomaly_map.min()) < level < float(anomaly_map.max()):
        # Black on white is visible on any image, also when printed without colors.
        for color, width in (("white", 2.4), ("black", 1.0)):
            ax.contour(anomaly_map, levels=[level], colors=color, linewidths=width, origin="upper", extent=extent)
