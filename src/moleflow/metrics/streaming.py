"""Exact pixel metrics of images of different sizes, computed image by image.

The metrics are functions of :class:`RankCounts`, the numbers of normal pixels that score below each defect pixel. These
counts add up over images. A first pass collects the scores of the defect pixels, which are few, and a second pass
accumulates their counts.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from moleflow.metrics.aupro import LOW_FPR_LIMIT, overlap_area, region_weights
from moleflow.metrics.ranking import RankCounts, flatten_scores, lookup, select, sort_scores


def pixel_metrics(
    count: int, map_of: Callable[[int], Tensor], mask_of: Callable[[int], Tensor | None]
) -> dict[str, float]:
    """Return ``pixel_auroc``, ``pixel_ap``, ``pro`` and ``pro_5``; nan without a defect pixel or without a normal one.

    Memory: one image and about 40 bytes per defect pixel. Both functions are called twice per image.

    Args:
        count: Number of images.
        map_of: Returns the anomaly map (H, W) of an image, of any range; -inf is allowed.
        mask_of: Returns the mask (H, W) bool of an image, true on defects, or None for an image without a defect.

    Raises:
        ValueError: If a score is NaN, or a map and its mask differ in shape.
    """
    scores, weights, regions = [torch.empty(0)], [torch.empty(0, dtype=torch.float64)], 0
    for i in range(count):
        mask = mask_of(i)
        if mask is not None:
            image_weights, image_regions = region_weights(mask)
            scores.append(select(_map(map_of(i), mask), mask.flatten()))
            weights.append(image_weights)
            regions += image_regions
    defect_scores, order = torch.cat(scores).sort()
    below, up_to = torch.zeros(2, len(defect_scores), dtype=torch.int64)
    normal = 0
    for i in range(count):
        mask = mask_of(i)
        values = flatten_scores(map_of(i)) if mask is None else select(_map(map_of(i), mask), ~mask.flatten())
        image_below, image_up_to = lookup(sort_scores(values), defect_scores)
        below += image_below
        up_to += image_up_to
        normal += len(values)
    counts = RankCounts(defect_scores, below, up_to, normal)
    pixel_weights = torch.cat(weights)[order] / regions
    return {
        "pixel_auroc": counts.auroc(),
        "pixel_ap": counts.average_precision(),
        "pro": overlap_area(counts, pixel_weights),
        "pro_5": overlap_area(counts, pixel_weights, LOW_FPR_LIMIT),
    }


def _map(anomaly_map: Tensor, mask: Tensor) -> Tensor:
    """Return the scores (H W,) of a map (H, W) after a check of its shape."""
    if anomaly_map.shape != mask.shape:
        raise ValueError(f"A map of shape {tuple(anomaly_map.shape)} has a mask of shape {tuple(mask.shape)}.")
    return flatten_scores(anomaly_map)
