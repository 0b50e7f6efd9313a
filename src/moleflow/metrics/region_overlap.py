"""Per-region overlap: every defect region counts the same, however small.

Reference: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2 (AUPRO up to a false-positive
rate of 0.3).
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from moleflow.metrics.ranking import Ranking, flat, lookup, rank, select

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)  # as in MVTec's own evaluation


def per_region_overlap(maps: Tensor, masks: Tensor, limit: float = 0.3, ranking: Ranking | None = None) -> float:
    """Return the normalised area under the curve of mean region overlap against the false-positive rate.

    The curve is the mean over all regions of the share of the region at or above a threshold, against the share of all
    normal pixels at or above it. A pixel i of a region of n pixels among R regions lifts the curve by 1 / (n R) at its
    own false-positive rate. Hence the area is a sum over defect pixels, exact without a grid of thresholds; where
    normal pixels tie with a defect pixel, the curve is the straight line of the trapezoid rule.

    Args:
        maps: (N, H, W) anomaly maps of any range.
        masks: (N, H, W) bool, true on defects. Regions are 8-connected.
        limit: False-positive rate in (0, 1] up to which the curve is integrated.
        ranking: What ``rank(maps, masks)`` returned, if the caller has it already: it saves the sort.

    Returns:
        A value in [0, 1], or nan without a defect pixel or without a normal pixel.

    Raises:
        ValueError: If the shapes differ, a score is NaN or the limit lies outside (0, 1].
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit={limit} must lie in (0, 1].")
    if ranking is None:
        ranking = rank(maps, masks)
    count = len(ranking.negatives)
    if not count or not len(ranking.positives):
        return float("nan")
    scores, weights = select(flat(maps), masks.flatten().bool()), _pixel_weights(masks).to(maps.device)
    order = scores.argsort()  # neighbouring look-ups then touch neighbouring memory
    below, up_to = lookup(ranking.negatives, scores[order])
    start, end = (1 - up_to.double() / count).clamp(max=limit), 1 - below.double() / count
    reached = end.clamp(max=limit)
    # From `start` to `end` the pixel's overlap rises along a line from 0 to 1; from there on it is 1.
    ramp = torch.where(end > start, (reached - start).square() / (2 * (end - start)), 0.0)
    return float((weights[order] * (limit - reached + ramp)).sum() / limit)


def _pixel_weights(masks: Tensor) -> Tensor:
    """Return the weights (P,) float64 of all defect pixels of masks (N, H, W), in row-major order; they sum to one."""
    weights = []
    regions = 0
    for mask in masks.bool().cpu().numpy():
        labels, found = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
        region_of_pixel = labels[mask]
        weights.append(1 / np.bincount(region_of_pixel)[region_of_pixel])
        regions += found
    return torch.from_numpy(np.concatenate(weights) / regions)
