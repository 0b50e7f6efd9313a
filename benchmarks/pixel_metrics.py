"""Pixel AUROC, AP and per-region overlap of a whole data set, against scikit-learn and a loop over thresholds.

    python benchmarks/pixel_metrics.py --out pixel_metrics.json

The maps are as many and as large as those of all MVTec AD test pictures (1,725 in 15 categories at 224 x 224, 86.6 M
pixels); what is in them is generated. Equal results are asserted before a time is printed.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from moleflow.metrics import auroc, average_precision, per_region_overlap, rank
from moleflow.randomness import generator

THRESHOLDS = 200
LIMIT = 0.3
Metric = Callable[[Tensor, Tensor], tuple[float, ...]]
Row = dict[str, Any]


def category(pictures: int, size: int, number: int) -> tuple[Tensor, Tensor]:
    """Return smooth maps (N, size, size) float32 in the range of a log-likelihood, and masks (N, size, size) bool.

    Two pictures of three have defects, of one or two regions that cover about 3 % of a picture.
    """
    draw = generator(0, "benchmark-pixel-metrics", number)
    axis = torch.arange(size, dtype=torch.float32)
    masks = torch.zeros(pictures, size, size, dtype=torch.bool)
    for i in range(pictures):
        for _ in range((i % 3 > 0) + (i % 6 == 5)):
            row, column, spread = torch.rand(3, generator=draw).tolist()
            radius = size * (0.02 + 0.12 * spread)
            masks[i] |= (axis[:, None] - row * size).square() + (axis - column * size).square() < radius**2
    noise = torch.randn(pictures, 1, max(2, size // 8), max(2, size // 8), generator=draw)
    maps = F.interpolate(noise, (size, size), mode="bilinear", align_corners=True)[:, 0]
    return (-2000 + 300 * (maps + 1.2 * masks)).contiguous(), masks


def ours(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return pixel AUROC and AP by one sort."""
    ranking = rank(maps, masks)
    return ranking.auroc(), ranking.average_precision()


def ours_apart(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return pixel AUROC and AP by two independent calls, as a user may write them."""
    return auroc(maps, masks), average_precision(maps, masks)


def scikit(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return pixel AUROC and AP by scikit-learn."""
    labels, scores = masks.flatten().numpy(), maps.flatten().numpy()
    return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))


def overlap(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return the per-region overlap by one sort."""
    return (per_region_overlap(maps, masks, LIMIT),)


def overlap_loop(maps: Tensor, masks: Tensor) -> tuple[float, ...]:
    """Return the per-region overlap by a loop over thresholds, at equal steps of the false-positive rate."""
    offset, labels = 0, np.zeros(maps.shape, dtype=np.int64)
    for i, mask in enumerate(masks.numpy()):
        found, count = ndimage.label(mask, structure=np.ones((3, 3)))
        labels[i] = np.where(mask, found + offset, 0)
        offset += count
    scores = maps.numpy()
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
    seconds, peaks = [], []
    for _ in range(repeats):
        with Peak() as peak:
            start = time.perf_counter()
            values = function(maps, masks)
            seconds.append(time.perf_counter() - start)
        peaks.append(peak.megabytes)
    return values, statistics.median(seconds), max(peaks)


def compare(
    name: str, fast: Metric, slow: Metric, tolerance: float, data: list[tuple[Tensor, Tensor]], repeats: tuple[int, int]
) -> Row:
    """Return one row of the table: both sides take turns category by category, and agree within ``tolerance``.

    Seconds are sums over categories of medians.
    """
    sides = [[measure(f, *pictures, n) for f, n in zip((fast, slow), repeats, strict=True)] for pictures in data]
    difference = max(float(np.abs(np.subtract(a[0], b[0])).max()) for a, b in sides)
    assert difference <= tolerance, f"{name}: {fast.__name__} and {slow.__name__} differ by {difference}"
    seconds, other_seconds = (sum(side[k][1] for side in sides) for k in range(2))
    peak, other_peak = (max(side[k][2] for side in sides) for k in range(2))
    return {
        "name": name,
        "seconds": seconds,
        "other": slow.__name__,
        "other_seconds": other_seconds,
        "ratio": other_seconds / seconds,
        "largest_difference": difference,
        "peak_mb": peak,
        "other_peak_mb": other_peak,
    }


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", type=int, default=15)
    parser.add_argument("--pictures", type=int, default=115, help="test pictures of each category")
    parser.add_argument("--size", type=int, default=224, help="side of a map in pixels")
    parser.add_argument("--repeats", type=int, nargs=2, default=(5, 1), help="runs of the fast and of the slow side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    data = [category(args.pictures, args.size, number) for number in range(args.categories)]
    pixels = sum(maps.numel() for maps, _ in data)
    share = sum(int(masks.sum()) for _, masks in data) / pixels
    print(f"{pixels / 1e6:.1f} M pixels in {args.categories} categories, {100 * share:.1f} % defect", flush=True)
    repeats = tuple(args.repeats)
    rows = [
        compare("pixel AUROC + AP, one sort", ours, scikit, 1e-9, data, repeats),
        compare("pixel AUROC + AP, two calls", ours_apart, ours, 0.0, data, (repeats[0], repeats[0])),
        # The loop sees the curve at 200 points only; the exact sum is what it converges to.
        compare(f"per-region overlap to {LIMIT}", overlap, overlap_loop, 2e-3, data, repeats),
    ]
    print(f"{'':30}{'seconds':>9}{'other':>14}{'seconds':>9}{'ratio':>7}{'difference':>12}{'peak MB':>9}{'other':>7}")
    for row in rows:
        print(
            f"{row['name']:30}{row['seconds']:9.2f}{row['other']:>14}{row['other_seconds']:9.2f}{row['ratio']:7.1f}"
            f"{row['largest_difference']:12.1e}{row['peak_mb']:9.0f}{row['other_peak_mb']:7.0f}"
        )
    if args.out:
        machine = {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": args.threads,
            "torch": torch.__version__,
        }
        args.out.write_text(
            json.dumps({"pixels": pixels, "repeats": repeats, "rows": rows, **machine}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
