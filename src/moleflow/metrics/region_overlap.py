"""Per-region overlap: every defect region counts the same, however small.

Reference: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2 (AUPRO up to a false-positive
rate of 0.3).
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from moleflow.metrics.ranking import Ranking, Standing, flat, rank, select

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
    ranking = rank(maps, masks) if ranking is None else ranking
    weights = [region_weights(mask) for mask in masks]
    shares = torch.cat([shares for shares, _ in weights]) / sum(regions for _, regions in weights)
    order = select(flat(maps), masks.flatten().bool()).argsort()
    return overlap_area(ranking.standing(), shares.to(order.device)[order], limit)


def overlap_area(standing: Standing, weights: Tensor, limit: float = 0.3) -> float:
    """Return what :func:`per_region_overlap` does.

    Args:
        standing: How the defect pixels stand among the normal ones.
        weights: (P,) float64: by how much each defect pixel, in the order of its score, lifts the curve; they sum to 1.
        limit: False-positive rate in (0, 1] up to which the curve is integrated.

    Raises:
        ValueError: If the limit lies outside (0, 1].
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit={limit} must lie in (0, 1].")
    if not standing.both_classes():
        return float("nan")
    start = (1 - standing.up_to.double() / standing.normal).clamp(max=limit)
    end = 1 - standing.below.double() / standing.normal
    reached = end.clamp(max=limit)
    # From `start` to `end` the pixel's overlap rises along a line from 0 to 1; from there on it is 1.
    ramp = torch.where(end > start, (reached - start).square() / (2 * (end - start)), 0.0)
    return float((weights * (limit - reached + ramp)).sum() / limit)


def region_weights(mask: Tensor) -> tuple[Tensor, int]:
    """Return one over the size of its region for each defect pixel of a mask (H, W), row-major, and how many regions.

    The weights are (P,) float64 and sum to the number of regions.
    """
    labels, regions = ndimage.label(mask.bool().cpu().numpy(), structure=_EIGHT_NEIGHBOURS)
    region_of_pixel = labels[labels > 0]
    return torch.from_numpy(1 / np.bincount(region_of_pixel)[region_of_pixel]), int(regions)
