"""AU-sPRO against a literal evaluation at all thresholds."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from moleflow.metrics.aupro import per_region_overlap
from moleflow.metrics.spro import Region, saturated_overlap


def literal_spro(maps: Tensor, regions: Sequence[Sequence[Region]], limit: float) -> float:
    """Return the area by thresholds: mean of min(detected / saturation, 1) against the false-positive rate."""
    normal = torch.ones(maps.shape[0], maps[0].numel(), dtype=torch.bool)
    for i, of_image in enumerate(regions):
        for region in of_image:
            normal[i, region.pixels] = False
    flat = maps.flatten(1)
    points = [(0.0, 0.0)]
    for threshold in flat.unique().flip(0):
        detected = flat >= threshold
        overlaps = [
            min(float(detected[i, region.pixels].sum()) / region.saturation, 1.0)
            for i, of_image in enumerate(regions)
            for region in of_image
        ]
        points.append((float(detected[normal].double().mean()), float(np.mean(overlaps))))
    x, y = (np.array(values) for values in zip(*points, strict=True))
    inside = x < limit
    x = np.append(x[inside], limit)
    y = np.append(y[inside], np.interp(limit, [p[0] for p in points], [p[1] for p in points]))
    return float(np.trapezoid(y, x) / limit)


def random_case(seed: int) -> tuple[Tensor, list[list[Region]]]:
    """Return maps without ties and overlapping regions with integer saturation thresholds; the last image is normal."""
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.permutation(4 * 48).reshape(4, 6, 8)).float()
    regions: list[list[Region]] = []
    for _ in range(3):
        regions.append([])
        for _ in range(rng.integers(1, 4)):
            pixels = torch.from_numpy(np.sort(rng.choice(48, rng.integers(1, 15), replace=False)))
            regions[-1].append(Region(pixels, float(rng.integers(1, len(pixels) + 1))))
    return maps, [*regions, []]


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_area_equals_that_of_all_thresholds(seed: int, limit: float) -> None:
    maps, regions = random_case(seed)
    area = saturated_overlap(len(maps), maps.__getitem__, regions.__getitem__, limit)
    assert area == pytest.approx(literal_spro(maps, regions, limit), abs=1e-9)


def test_without_saturation_it_equals_the_per_region_overlap() -> None:
    maps = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 9, 9, dtype=torch.bool)
    masks[0, :3, :3], masks[1, 5:, 5:] = True, True
    pixels = [mask.flatten().nonzero().squeeze(1) for mask in masks]
    regions = [[Region(p, len(p))] if len(p) else [] for p in pixels]
    area = saturated_overlap(3, maps.__getitem__, regions.__getitem__, 0.3)
    assert area == pytest.approx(per_region_overlap(maps, masks), abs=1e-9)


def test_a_saturated_region_counts_fully() -> None:
    maps = torch.tensor([[[3.0, 2.0, 0.0, 1.0]]])
    regions = [[Region(torch.tensor([0, 1, 2]), 2.0)]]
    assert saturated_overlap(1, maps.__getitem__, regions.__getitem__, 1.0) == pytest.approx(1)
    unsaturated = [[Region(torch.tensor([0, 1, 2]), 3.0)]]
    assert saturated_overlap(1, maps.__getitem__, unsaturated.__getitem__, 1.0) == pytest.approx(2 / 3)


def test_without_regions_or_normal_pixels_it_is_undefined() -> None:
    maps = torch.rand(1, 2, 2)
    assert math.isnan(saturated_overlap(1, maps.__getitem__, lambda i: []))
    assert math.isnan(saturated_overlap(1, maps.__getitem__, lambda i: [Region(torch.arange(4), 4.0)]))
