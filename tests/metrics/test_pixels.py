"""Pixel metrics picture by picture against those of everything at once."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from moleflow.metrics import CategoryMetrics, pixel_metrics
from moleflow.randomness import generator


def pictures(levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(0, "test-pixels")
    masks = torch.rand(5, 11, 9, generator=draw) < 0.15
    masks[0] = False
    return ((torch.rand(5, 11, 9, generator=draw) + 0.4 * masks) * levels).round() * 1e3 - 5e3, masks


@pytest.mark.parametrize("levels", [3, 20, 10**6])
def test_equals_all_at_once(levels: int) -> None:
    maps, masks = pictures(levels)
    whole = CategoryMetrics()
    whole.update(maps, masks, torch.arange(5.0), masks.flatten(1).any(1))
    found = pixel_metrics(5, lambda i: maps[i], lambda i: masks[i] if masks[i].any() else None)
    expected = whole.compute()
    assert found == pytest.approx({name: expected[name] for name in ("pixel_auroc", "pixel_ap", "pro")}, abs=1e-12)


def test_pictures_of_any_size_and_parts_that_nobody_looked_at() -> None:
    draw = generator(1, "test-pixels")
    sizes = [(7, 12), (20, 5), (9, 9)]
    maps = [torch.randn(size, generator=draw) for size in sizes]
    masks = [torch.rand(size, generator=draw) < 0.2 for size in sizes]
    maps[1][:8] = -torch.inf
    found = pixel_metrics(3, maps.__getitem__, masks.__getitem__)
    labels = np.concatenate([mask.flatten() for mask in masks])
    scores = np.concatenate([one.flatten() for one in maps]).clip(-100)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["pixel_ap"] == pytest.approx(average_precision_score(labels, scores))


def test_nothing_to_measure_is_nan_and_nonsense_an_error() -> None:
    maps, masks = pictures(20)
    assert all(math.isnan(value) for value in pixel_metrics(2, lambda i: maps[i], lambda i: None).values())
    with pytest.raises(ValueError, match="NaN"):
        pixel_metrics(2, lambda i: maps[i] * torch.nan, lambda i: masks[i])
    with pytest.raises(ValueError, match="its mask"):
        pixel_metrics(2, lambda i: maps[i, :4], lambda i: masks[i])
