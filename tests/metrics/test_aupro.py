"""Per-region overlap against a loop over all thresholds, and on simple cases."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from moleflow.metrics.aupro import per_region_overlap
from moleflow.metrics.ranking import rank
from moleflow.utils.random import generator


def _reference(maps: torch.Tensor, masks: torch.Tensor, fpr_limit: float) -> float:
    """Compute the curve at all thresholds and integrate it by the trapezoid rule."""
    regions = []
    for i, mask in enumerate(masks.numpy()):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(i, labels == k) for k in range(1, count + 1)]
    normal = ~masks.numpy()
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps.numpy())[::-1]:
        hit = maps.numpy() >= threshold
        rates.append(hit[normal].mean())
        overlaps.append(float(np.mean([hit[i][region].mean() for i, region in regions])))
    area = 0.0
    for (a, p), (b, q) in zip(
        zip(rates[:-1], overlaps[:-1], strict=True), zip(rates[1:], overlaps[1:], strict=True), strict=True
    ):
        if a >= fpr_limit:
            break
        if b > fpr_limit:
            b, q = fpr_limit, p + (q - p) * (fpr_limit - a) / (b - a)
        area += (b - a) * (p + q) / 2
    return area / fpr_limit


def _images(levels: int | None, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(seed, "test-overlap")
    masks = torch.rand(5, 11, 9, generator=draw) < 0.15  # sparse noise: many regions of one pixel to a dozen
    masks[0] = False
    maps = torch.rand(5, 11, 9, generator=draw) + 0.4 * masks
    if levels is not None:
        maps = (maps * levels).round()
    return maps * 1e3 - 5e3, masks


@pytest.mark.parametrize("fpr_limit", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [None, 20, 3, 1])
def test_equals_the_loop_over_thresholds(levels: int | None, fpr_limit: float) -> None:
    for seed in range(3):
        maps, masks = _images(levels, seed)
        expected = _reference(maps, masks, fpr_limit)
        assert per_region_overlap(maps, masks, fpr_limit) == pytest.approx(expected, abs=1e-6)


def test_a_perfect_map_is_one_and_a_reversed_one_is_zero() -> None:
    _, masks = _images(None, 0)
    assert per_region_overlap(masks.float(), masks) == pytest.approx(1)
    assert per_region_overlap(-masks.float(), masks) == pytest.approx(0)


def test_regions_have_equal_weight_whatever_their_size() -> None:
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, 0, 0] = True
    masks[0, 5:15, 5:15] = True
    maps = torch.rand(1, 20, 20, generator=generator(0, "test-overlap"))
    large, small = maps.clone(), maps.clone()
    large[0, 5:15, 5:15], large[0, 0, 0] = 2, -1
    small[0, 5:15, 5:15], small[0, 0, 0] = -1, 2
    assert per_region_overlap(large, masks) == pytest.approx(0.5)
    assert per_region_overlap(small, masks) == pytest.approx(0.5)


def test_diagonal_neighbors_are_one_region() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 1, 1] = masks[0, 2, 2] = masks[0, 6, 6] = True
    maps = torch.zeros(1, 8, 8)
    maps[0, 6, 6] = 1
    maps[0, 1, 1] = maps[0, 2, 2] = -1
    assert per_region_overlap(maps, masks) == pytest.approx(0.5)  # with 4 neighbors it would be 1/3


def test_a_precomputed_ranking_has_the_same_result() -> None:
    maps, masks = _images(20, 1)
    assert per_region_overlap(maps, masks, ranking=rank(maps, masks)) == per_region_overlap(maps, masks)


def test_half_precision_maps_are_ranked_like_their_float32_copy() -> None:
    maps, masks = _images(20, 2)
    for half in ((maps / 1e3).half(), (maps / 1e3).bfloat16()):
        assert per_region_overlap(half, masks) == per_region_overlap(half.float(), masks)


def test_one_class_is_nan() -> None:
    maps = torch.rand(2, 4, 4)
    assert math.isnan(per_region_overlap(maps, torch.zeros(2, 4, 4, dtype=torch.bool)))
    assert math.isnan(per_region_overlap(maps, torch.ones(2, 4, 4, dtype=torch.bool)))


@pytest.mark.parametrize("fpr_limit", [0.0, -0.1, 1.1])
def test_an_invalid_false_positive_rate_is_an_error(fpr_limit: float) -> None:
    with pytest.raises(ValueError, match=f"fpr_limit={fpr_limit} must lie in"):
        per_region_overlap(*_images(None, 0), fpr_limit=fpr_limit)
