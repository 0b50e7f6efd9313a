"""Area under the per-region overlap curve (AUPRO), in which all defect regions have equal weight.

Reference: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2 (AUPRO up to a false-positive
rate of 0.3).
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from moleflow.metrics.ranking import RankCounts, Ranking, flatten_scores, rank, select

LOW_FPR_LIMIT = 0.05
"""False-positive rate up to which the metric ``pro_5`` is integrated, as in MVTec AD 2 (Heckler-Kram et al., 2025)."""

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)  # as in MVTec's evaluation code


def per_region_overlap(maps: Tensor, masks: Tensor, fpr_limit: float = 0.3, ranking: Ranking | None = None) -> float:
    """Return the normalized area under the curve of mean region overlap against the false-positive rate.

    At each threshold the curve has the mean over all regions of the share of the region at or above it, against the
    share of all normal pixels at or above it. A pixel of a region of n pixels among R regions raises the curve by
    1 / (n R) at the pixel's own false-positive rate. Hence the area is a sum over defect pixels, exact without a grid
    of thresholds. Where normal pixels tie with a defect pixel, the curve is linear (trapezoid rule).

    Args:
        maps: (N, H, W) anomaly maps of any range.
        masks: (N, H, W) bool, true on defects. Regions are 8-connected.
        fpr_limit: False-positive rate in (0, 1] up to which the curve is integrated.
        ranking: Result of ``rank(maps, masks)``, if already computed; saves the sort.

    Returns:
        A value in [0, 1], or nan without a defect pixel or without a normal pixel.

    Raises:
        ValueError: If the shapes differ, a score is NaN or ``fpr_limit`` lies outside (0, 1].
    """
    ranking = rank(maps, masks) if ranking is None else ranking
    weights = [region_weights(mask) for mask in masks]
    pixel_weights = torch.cat([pixels for pixels, _ in weights]) / sum(regions for _, regions in weights)
    order = select(flatten_scores(maps), masks.flatten().bool()).argsort()
    return overlap_area(ranking.counts(), pixel_weights.to(order.device)[order], fpr_limit)


def overlap_area(counts: RankCounts, weights: Tensor, fpr_limit: float = 0.3) -> float:
    """Return the normalized area under the per-region overlap curve from rank counts.

    Args:
        counts: Rank counts of the defect pixels.
        weights: (P,) float64, by how much each defect pixel, in ascending order of the scores, raises the curve. They
            sum to 1.
        fpr_limit: False-positive rate in (0, 1] up to which the curve is integrated.

    Returns:
        A value in [0, 1], or nan without a defect pixel or without a normal pixel.

    Raises:
        ValueError: If ``fpr_limit`` lies outside (0, 1].
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit={fpr_limit} must lie in (0, 1].")
    if not counts.has_both_classes():
        return float("nan")
    start = (1 - counts.up_to.double() / counts.normal).clamp(max=fpr_limit)
    end = 1 - counts.below.double() / counts.normal
    reached = end.clamp(max=fpr_limit)
    # From `start` to `end` the pixel's overlap rises linearly from 0 to 1; beyond `end` it is 1.
    ramp = torch.where(end > start, (reached - start).square() / (2 * (end - start)), 0.0)
    return float((weights * (fpr_limit - reached + ramp)).sum() / fpr_limit)


def region_weights(mask: Tensor) -> tuple[Tensor, int]:
    """Return the reciprocal region size of each defect pixel, and the number of regions.

    Args:
        mask: (H, W) bool, true on defects.

    Returns:
        (P,) float64 weights in row-major order, which sum to the number of regions, and that number.
    """
    labels, regions = ndimage.label(mask.bool().cpu().numpy(), structure=_EIGHT_NEIGHBOURS)
    region_of_pixel = labels[labels > 0]
    return torch.from_numpy(1 / np.bincount(region_of_pixel)[region_of_pixel]), int(regions)
