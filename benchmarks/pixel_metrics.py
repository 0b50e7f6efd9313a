"""Pixel AUROC, AP and per-region overlap of a whole data set, against scikit-learn and a loop over thresholds.

    python benchmarks/pixel_metrics.py --out pixel_metrics.json

The maps are as many and as large as those of all test images of MVTec AD (1,725 in 15 categories at 224 x 224, 86.6 M
pixels); their content is generated. The results must be equal before a time is printed.
"""

import ctypes
import statistics
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from side_by_side import (
    Row,
    assert_close,
    benchmark_parser,
    parse_args,
    print_table,
    resident_bytes,
    seconds,
    write_result,
)
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from moleflow.metrics.aupro import per_region_overlap
from moleflow.metrics.ranking import auroc, average_precision, rank
from moleflow.utils.random import generator

THRESHOLDS = 200
FPR_LIMIT = 0.3

Metric = Callable[[Tensor, Tensor], tuple[float, ...]]
"""Function from maps (N, H, W) and masks (N, H, W) to metrics."""


def generate_category(images: int, size: int, number: int) -> tuple[Tensor, Tensor]:
    """Return smooth maps (N, size, size) float32 in the range of a log-likelihood, and masks (N, size, size) bool.

    Two of three images have defects, each of one or two regions that cover about 3 % of the image.

    Args:
        images: Number N of images.
        size: Side in pixels.
        number: Number of the category, which determines the content.
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


def one_sort(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return pixel AUROC and AP of moleflow, computed by one sort."""
    counts = rank(maps, masks).counts()
    return counts.auroc(), counts.average_precision()


def two_calls(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return pixel AUROC and AP of moleflow, computed by two independent calls."""
    return auroc(maps, masks), average_precision(maps, masks)


def scikit(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return pixel AUROC and AP of scikit-learn."""
    labels, scores = masks.flatten().cpu().numpy(), maps.flatten().cpu().numpy()
    return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))


def overlap(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return the per-region overlap of moleflow, computed by one sort."""
    return (per_region_overlap(maps, masks, FPR_LIMIT),)


def overlap_loop(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return the per-region overlap by a loop over thresholds with equal steps of the false-positive rate."""
    offset, labels = 0, np.zeros(maps.shape, dtype=np.int64)
    for i, mask in enumerate(masks.cpu().numpy()):
        regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
        labels[i] = np.where(mask, regions + offset, 0)
        offset += count
    scores = maps.cpu().numpy()
    sizes = np.bincount(labels.ravel(), minlength=offset + 1)
    rates, overlaps = [0.0], [0.0]
    for threshold in np.quantile(scores[labels == 0], 1 - np.linspace(0, FPR_LIMIT, THRESHOLDS + 1)[1:]):
        hits = np.bincount(labels[scores >= threshold], minlength=offset + 1)
        rates.append(hits[0] / sizes[0])
        overlaps.append(float((hits[1:] / sizes[1:]).mean()))
    return (float(np.trapezoid(overlaps, rates)) / FPR_LIMIT,)


class PeakMemory:
    """Context manager that measures the peak resident memory above that at its start, every 5 ms (Linux)."""

    def __enter__(self) -> "PeakMemory":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # otherwise memory that was freed earlier is used again unnoticed
        self._stop = threading.Event()
        self._start = self._peak = resident_bytes()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, resident_bytes())

    @property
    def megabytes(self) -> float:
        """The peak in MB."""
        return (self._peak - self._start) / 1e6


def measure(function: Metric, maps: Tensor, masks: Tensor, repeats: int) -> tuple[tuple[float, ...], float, float]:
    """Return the values of a function, its median seconds, and its largest peak memory in MB.

    Args:
        function: The function.
        maps: Anomaly maps (N, H, W).
        masks: Masks (N, H, W).
        repeats: Timed calls.
    """
    values: list[tuple[float, ...]] = []
    times, peaks = [], []
    for _ in range(repeats):
        with PeakMemory() as peak:
            times.append(seconds(lambda: values.append(function(maps, masks))))
        peaks.append(peak.megabytes)
    return values[-1], statistics.median(times), max(peaks)


def compare(
    name: str, fast: Metric, slow: Metric, tolerance: float, data: list[tuple[Tensor, Tensor]], repeats: tuple[int, int]
) -> Row:
    """Return one row of the table; the sides are called in turn, category by category.

    Seconds are sums over categories of medians.

    Args:
        name: Name of the metric.
        fast: moleflow's function.
        slow: The other side.
        tolerance: Largest allowed difference of their results.
        data: Maps and masks of each category.
        repeats: Timed calls of both sides.
    """
    results = [[measure(f, *images, n) for f, n in zip((fast, slow), repeats, strict=True)] for images in data]
    values = [torch.tensor([pair[side][0] for pair in results], dtype=torch.float64) for side in range(2)]
    times = [sum(pair[side][1] for pair in results) for side in range(2)]
    return {
        "metric": name,
        "seconds": times[0],
        "other": slow.__name__,
        "other_seconds": times[1],
        "ratio": times[1] / times[0],
        "largest_difference": assert_close(name, *values, tolerance),
        "peak_mb": max(pair[0][2] for pair in results),
        "other_peak_mb": max(pair[1][2] for pair in results),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Time both sides, check that they agree, and print the table."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--categories", type=int, default=15, help="number of categories")
    parser.add_argument("--images", type=int, default=115, help="test images of each category")
    parser.add_argument("--size", type=int, default=224, help="side of a map in pixels")
    parser.add_argument("--slow-repeats", type=int, default=1, help="timed calls of the slow side")
    options = parse_args(parser, args)
    if options.smoke:
        options.categories, options.images, options.size, options.repeats = 2, 6, 64, 1

    data = [generate_category(options.images, options.size, number) for number in range(options.categories)]
    data = [(maps.to(options.device), masks.to(options.device)) for maps, masks in data]
    pixels = sum(maps.numel() for maps, _ in data)
    share = sum(int(masks.sum()) for _, masks in data) / pixels
    repeats = options.repeats, options.slow_repeats
    rows = [
        compare("pixel AUROC + AP, one sort", one_sort, scikit, 1e-9, data, repeats),
        compare("pixel AUROC + AP, two calls", two_calls, one_sort, 0.0, data, (repeats[0], repeats[0])),
        # The loop samples the curve at 200 points and converges to the exact sum.
        compare(f"per-region overlap to {FPR_LIMIT}", overlap, overlap_loop, 2e-3, data, repeats),
    ]
    print(f"{pixels / 1e6:.1f} M pixels in {options.categories} categories, {100 * share:.1f} % defective")
    print_table(
        rows,
        {"metric": "", "seconds": ".2f", "other": "", "other_seconds": ".2f", "ratio": ".1f"}
        | {"largest_difference": ".1e", "peak_mb": ".0f", "other_peak_mb": ".0f"},
    )
    write_result(options.out, {"pixels": pixels, "repeats": repeats, "rows": rows}, options.device)


if __name__ == "__main__":
    main()
