"""Pixel AUROC, AP and per-region overlap of a whole data set, against scikit-learn and a loop over thresholds.

    python benchmarks/pixel_metrics.py --out pixel_metrics.json

The maps are as many and as large as those of all MVTec AD test images (1,725 in 15 categories at 224 x 224, 86.6 M
pixels); what is in them is generated. Equal results are asserted before a time is printed.
"""

import ctypes
import os
import statistics
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from side_by_side import Row, agree, parse, parser, seconds, show, write
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from moleflow.metrics.aupro import per_region_overlap
from moleflow.metrics.ranking import auroc, average_precision, rank
from moleflow.utils.random import generator

THRESHOLDS = 200
LIMIT = 0.3
Metric = Callable[[Tensor, Tensor], tuple[float, ...]]


def category(images: int, size: int, number: int) -> tuple[Tensor, Tensor]:
    """Return smooth maps (N, size, size) float32 in the range of a log-likelihood, and masks (N, size, size) bool.

    Two images of three have defects, of one or two regions that cover about 3 % of an image.
    """
    draw = generator(0, "benchmark-pixel-metrics", number)
    axis = torch.arange(size, dtype=torch.float32)
    masks = torch.zeros(images, size, size, dtype=torch.bool)
    for i in range(images):
        for _ in range((i % 3 > 0) + (i % 6 == 5)):
            row, column, spread = torch.rand(3, generator=draw).tolist()
            radius = size * (0.02 + 0.12 * spread)
            masks[i] |= (axis[:, None] - row * size).square() + (axis - column * size).square() < radius**2
    noise = torch.randn(images, 1, max(2, size // 8), max(2, size // 8), generator=draw)
    maps = F.interpolate(noise, (size, size), mode="bilinear", align_corners=True)[:, 0]
    return (-2000 + 300 * (maps + 1.2 * masks)).contiguous(), masks


def ours(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return pixel AUROC and AP by one sort."""
    ranking = rank(maps, masks)
    standing = ranking.counts()
    return standing.auroc(), standing.average_precision()


def ours_apart(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return pixel AUROC and AP by two independent calls, as a user may write them."""
    return auroc(maps, masks), average_precision(maps, masks)


def scikit(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return pixel AUROC and AP by scikit-learn."""
    labels, scores = masks.flatten().cpu().numpy(), maps.flatten().cpu().numpy()
    return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))


def overlap(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return the per-region overlap by one sort."""
    return (per_region_overlap(maps, masks, LIMIT),)


def overlap_loop(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return the per-region overlap by a loop over thresholds, at equal steps of the false-positive rate."""
    offset, labels = 0, np.zeros(maps.shape, dtype=np.int64)
    for i, mask in enumerate(masks.cpu().numpy()):
        found, count = ndimage.label(mask, structure=np.ones((3, 3)))
        labels[i] = np.where(mask, found + offset, 0)
        offset += count
    scores = maps.cpu().numpy()
    sizes = np.bincount(labels.ravel(), minlength=offset + 1)
    rates, overlaps = [0.0], [0.0]
    for threshold in np.quantile(scores[labels == 0], 1 - np.linspace(0, LIMIT, THRESHOLDS + 1)[1:]):
        hits = np.bincount(labels[scores >= threshold], minlength=offset + 1)
        rates.append(hits[0] / sizes[0])
        overlaps.append(float((hits[1:] / sizes[1:]).mean()))
    return (float(np.trapezoid(overlaps, rates)) / LIMIT,)


class Peak:
    """The most memory above the start that the process held while the block ran, in MB (sampled every 5 ms; Linux)."""

    def __enter__(self) -> "Peak":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what earlier work freed would hide what this work takes
        self._stop = threading.Event()
        self._start = self._most = _resident()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._most = max(self._most, _resident())

    @property
    def megabytes(self) -> float:
        return (self._most - self._start) / 1e6


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(function: Metric, maps: Tensor, masks: Tensor, repeats: int) -> tuple[tuple[float, ...], float, float]:
    """Return a function's values, the median of its seconds, and its largest peak in MB."""
    values: list[tuple[float, ...]] = []
    spent, peaks = [], []
    for _ in range(repeats):
        with Peak() as peak:
            spent.append(seconds(lambda: values.append(function(maps, masks))))
        peaks.append(peak.megabytes)
    return values[-1], statistics.median(spent), max(peaks)


def compare(
    name: str, fast: Metric, slow: Metric, tolerance: float, data: list[tuple[Tensor, Tensor]], repeats: tuple[int, int]
) -> Row:
    """Return one row of the table: both sides take turns category by category, and agree within ``tolerance``.

    Seconds are sums over categories of medians.
    """
    both = [[measure(f, *images, n) for f, n in zip((fast, slow), repeats, strict=True)] for images in data]
    values = [torch.tensor([pair[side][0] for pair in both], dtype=torch.float64) for side in range(2)]
    spent = [sum(pair[side][1] for pair in both) for side in range(2)]
    return {
        "metric": name,
        "seconds": spent[0],
        "other": slow.__name__,
        "other_seconds": spent[1],
        "ratio": spent[1] / spent[0],
        "largest_difference": agree(name, *values, tolerance),
        "peak_mb": max(pair[0][2] for pair in both),
        "other_peak_mb": max(pair[1][2] for pair in both),
    }


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, write JSON."""
    made = parser(__doc__)
    made.add_argument("--categories", type=int, default=15)
    made.add_argument("--images", type=int, default=115, help="test images of each category")
    made.add_argument("--size", type=int, default=224, help="side of a map in pixels")
    made.add_argument("--slow-repeats", type=int, default=1, help="timed calls of the slow side")
    args = parse(made, given)
    if args.smoke:
        args.categories, args.images, args.size, args.repeats = 2, 6, 64, 1

    data = [category(args.images, args.size, number) for number in range(args.categories)]
    data = [(maps.to(args.device), masks.to(args.device)) for maps, masks in data]
    pixels = sum(maps.numel() for maps, _ in data)
    share = sum(int(masks.sum()) for _, masks in data) / pixels
    repeats = args.repeats, args.slow_repeats
    rows = [
        compare("pixel AUROC + AP, one sort", ours, scikit, 1e-9, data, repeats),
        compare("pixel AUROC + AP, two calls", ours_apart, ours, 0.0, data, (repeats[0], repeats[0])),
        # The loop sees the curve at 200 points only; the exact sum is what it converges to.
        compare(f"per-region overlap to {LIMIT}", overlap, overlap_loop, 2e-3, data, repeats),
    ]
    print(f"{pixels / 1e6:.1f} M pixels in {args.categories} categories, {100 * share:.1f} % defect")
    show(
        rows,
        {"metric": "", "seconds": ".2f", "other": "", "other_seconds": ".2f", "ratio": ".1f"}
        | {"largest_difference": ".1e", "peak_mb": ".0f", "other_peak_mb": ".0f"},
    )
    write(args.out, {"pixels": pixels, "repeats": repeats, "rows": rows}, args.device)


if __name__ == "__main__":
    main()
