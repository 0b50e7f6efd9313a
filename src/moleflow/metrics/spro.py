"""Area under the saturated per-region overlap curve (AU-sPRO).

Reference: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and
Localization", IJCV 2022, section 4.3.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from moleflow.metrics.aupro import overlap_area
from moleflow.metrics.ranking import RankCounts, flatten_scores, lookup, sort_scores

FPR_LIMIT = 0.05
"""False-positive rate up to which the curve is integrated, that of the headline results of MVTec LOCO AD."""


class Region(NamedTuple):
    """One defect region of a map.

    Attributes:
        pixels: (n,) int64, positions of the region's pixels in the flattened map, n > 0.
        saturation: Saturation threshold in pixels, in (0, n].
    """

    pixels: Tensor
    saturation: float


def saturated_overlap(
    count: int,
    map_of: Callable[[int], Tensor],
    regions_of: Callable[[int], Sequence[Region]],
    fpr_limit: float = FPR_LIMIT,
) -> float:
    """Return the normalized area under the curve of mean saturated overlap against the false-positive rate.

    At each threshold, the saturated overlap of a region is the number of its pixels with a score at or above it,
    divided by its saturation threshold, and at most 1. A pixel that belongs to several regions counts for each.
    Normal pixels are those of no region. The area is exact, without a grid of thresholds: the highest pixels of a
    region raise the curve until the region is saturated, each at its own false-positive rate.

    Memory: one image and 16 bytes per defect pixel. Both functions are called twice per image.

    Args:
        count: Number of images.
        map_of: Returns the anomaly map (H, W) of an image, of any range.
        regions_of: Returns the regions of an image; none for a normal image. Regions may overlap.
        fpr_limit: False-positive rate in (0, 1] up to which the curve is integrated.

    Returns:
        A value in [0, 1], or nan without a region or without a normal pixel.

    Raises:
        ValueError: If a score is NaN, or ``fpr_limit`` lies outside (0, 1].
    """
    scores, weights, num_regions = [torch.empty(0)], [torch.empty(0, dtype=torch.float64)], 0
    for i in range(count):
        regions = regions_of(i)
        values = flatten_scores(map_of(i)) if regions else torch.empty(0)
        for region in regions:
            highest = sort_scores(values[region.pixels]).flip(0)
            rank = torch.arange(len(highest), dtype=torch.float64)
            share = (region.saturation - rank).clamp(0, 1) / region.saturation
            scores.append(highest[share > 0])
            weights.append(share[share > 0])
            num_regions += 1
    defect_scores, order = torch.cat(scores).sort()
    below, up_to = torch.zeros(2, len(defect_scores), dtype=torch.int64)
    normal = 0
    for i in range(count):
        values = flatten_scores(map_of(i))
        is_normal = torch.ones(len(values), dtype=torch.bool)
        for region in regions_of(i):
            is_normal[region.pixels] = False
        image_below, image_up_to = lookup(sort_scores(values[is_normal]), defect_scores)
        below += image_below
        up_to += image_up_to
        normal += int(is_normal.sum())
    counts = RankCounts(defect_scores, below, up_to, normal)
    return overlap_area(counts, torch.cat(weights)[order] / max(num_regions, 1), fpr_limit)
