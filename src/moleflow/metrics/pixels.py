"""Pixel metrics of pictures that differ in size and do not fit into memory together: exact all the same.

What the metrics depend on is how many normal pixels score below each defect pixel (:class:`Standing`), and these counts
add up over pictures. So one round gathers the defect pixels, which are few, and a second one counts them picture by
picture.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from moleflow.metrics.ranking import Standing, flat, lookup, ordered, select
from moleflow.metrics.region_overlap import overlap_area, region_weights


def pixel_metrics(
    count: int, map_of: Callable[[int], Tensor], mask_of: Callable[[int], Tensor | None]
) -> dict[str, float]:
    """Return ``pixel_auroc``, ``pixel_ap`` and ``pro``; nan without a defect pixel or without a normal one.

    Memory: one picture and about 40 bytes a defect pixel.

    Args:
        count: Number of pictures.
        map_of: Makes a picture's anomaly map (H, W), any range, -inf allowed.
        mask_of: Reads its mask (H, W) bool, true on defects, or None where nothing is marked.

    Raises:
        ValueError: If a score is NaN, or a map has another shape than its mask.
    """
    scores, weights, regions = [torch.empty(0)], [torch.empty(0, dtype=torch.float64)], 0
    for i in range(count):
        mask = mask_of(i)
        if mask is not None:
            shares, found = region_weights(mask)
            scores.append(select(_map(map_of(i), mask), mask.flatten()))
            weights.append(shares)
            regions += found
    together, order = torch.cat(scores).sort()
    below, up_to = torch.zeros(2, len(together), dtype=torch.int64)
    normal = 0
    for i in range(count):
        mask = mask_of(i)
        values = flat(map_of(i)) if mask is None else select(_map(map_of(i), mask), ~mask.flatten())
        less, less_or_same = lookup(ordered(values), together)
        below += less
        up_to += less_or_same
        normal += len(values)
    standing = Standing(together, below, up_to, normal)
    return {
        "pixel_auroc": standing.auroc(),
        "pixel_ap": standing.average_precision(),
        "pro": overlap_area(standing, torch.cat(weights)[order] / regions),
    }


def _map(anomaly_map: Tensor, mask: Tensor) -> Tensor:
    if anomaly_map.shape != mask.shape:
        raise ValueError(f"The map is {tuple(anomaly_map.shape)}, its mask {tuple(mask.shape)}.")
    return flat(anomaly_map)
