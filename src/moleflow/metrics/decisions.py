"""Metrics of decisions: false alarms, recall and F1 score at thresholds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

DECISION_METRICS = ("false_alarm_rate", "recall", "f1", "unknown_rate", "f1_max", "f1_max_threshold")
"""The metrics of :func:`decision_metrics`."""


def decision_metrics(
    scores: ArrayLike, labels: ArrayLike, thresholds: Sequence[float | None], unknown: ArrayLike
) -> dict[str, float]:
    """Return the metrics of the decisions on the test images of one category.

    Args:
        scores: (N,) image scores.
        labels: (N,) true for an image with a defect.
        thresholds: Score threshold of each image, that of the expert which scored it; None for no threshold.
        unknown: (N,) whether the image was classified as unknown.

    Returns:
        ``false_alarm_rate`` and ``recall``: shares of the normal and of the defective images above their threshold;
        ``f1``: F1 score of these decisions; ``unknown_rate``: share of all images that are unknown; ``f1_max``: the
        largest F1 score of one threshold for all images, and ``f1_max_threshold``, the highest such threshold. A value
        is nan if it is undefined: without a threshold, or with one class only.
    """
    values, defect = np.asarray(scores, np.float64), np.asarray(labels, bool)
    limits = np.array([np.nan if threshold is None else threshold for threshold in thresholds], np.float64)
    undefined = bool(np.isnan(limits).any())
    above = values > limits
    hits, alarms = int((above & defect).sum()), int((above & ~defect).sum())
    f1_max, f1_max_threshold = largest_f1(values, defect)
    return {
        "false_alarm_rate": np.nan if undefined else _share(alarms, int((~defect).sum())),
        "recall": np.nan if undefined else _share(hits, int(defect.sum())),
        "f1": np.nan if undefined or not defect.any() else _share(2 * hits, hits + alarms + int(defect.sum())),
        "unknown_rate": float(np.asarray(unknown, bool).mean()),
        "f1_max": f1_max,
        "f1_max_threshold": f1_max_threshold,
    }


def largest_f1(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Return the largest F1 score of one threshold, and the highest threshold that has it; nan with one class only.

    The threshold is halfway between two neighboring scores, or the lowest score less one if all images are above it.

    Args:
        scores: (N,) image scores.
        labels: (N,) true for an image with a defect.
    """
    values, defect = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if defect.all() or not defect.any():
        return float("nan"), float("nan")
    levels, index = np.unique(values, return_inverse=True)
    defects = np.bincount(index, weights=defect)[::-1].cumsum()[::-1]  # at or above each level
    images = np.bincount(index)[::-1].cumsum()[::-1]
    f1 = 2 * defects / (images + defect.sum())
    best = int(np.flatnonzero(f1 == f1.max())[-1])
    threshold = (levels[best - 1] + levels[best]) / 2 if best else levels[0] - 1
    return float(f1[best]), float(threshold)


def _share(count: int, total: int) -> float:
    return count / total if total else float("nan")
