"""Streamed pixel metrics against those of all images at once."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from moleflow.metrics.category import CategoryMetrics
from moleflow.metrics.streaming import pixel_metrics
from moleflow.utils.random import generator


def images(levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(0, "test-pixels")
    masks = torch.rand(5, 11, 9, generator=draw) < 0.15
    masks[0] = False
    return ((torch.rand(5, 11, 9, generator=draw) + 0.4 * masks) * levels).round() * 1e3 - 5e3, masks


@pytest.mark.parametrize("levels", [3, 20, 10**6])
def test_equals_the_metrics_of_all_images_at_once(levels: int) -> None:
    maps, masks = images(levels)
    metric = CategoryMetrics()
    metric.update(maps, masks, torch.arange(5.0), masks.flatten(1).any(1))
    values = pixel_metrics(5, lambda i: maps[i], lambda i: masks[i] if masks[i].any() else None)
    expected = metric.compute()
    assert values == pytest.approx(
        {name: expected[name] for name in ("pixel_auroc", "pixel_ap", "pro", "pro_5")}, abs=1e-12
    )


def test_images_of_different_sizes_with_infinite_scores() -> None:
    draw = generator(1, "test-pixels")
    sizes = [(7, 12), (20, 5), (9, 9)]
    maps = [torch.randn(size, generator=draw) for size in sizes]
    masks = [torch.rand(size, generator=draw) < 0.2 for size in sizes]
    maps[1][:8] = -torch.inf
    values = pixel_metrics(3, maps.__getitem__, masks.__getitem__)
    labels = np.concatenate([mask.flatten() for mask in masks])
    scores = np.concatenate([anomaly_map.flatten() for anomaly_map in maps]).clip(-100)
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert values["pixel_ap"] == pytest.approx(average_precision_score(labels, scores))


def test_one_class_is_nan_and_invalid_maps_are_errors() -> None:
    maps, masks = images(20)
    assert all(math.isnan(value) for value in pixel_metrics(2, lambda i: maps[i], lambda i: None).values())
    with pytest.raises(ValueError, match="NaN"):
        pixel_metrics(2, lambda i: maps[i] * torch.nan, lambda i: masks[i])
    with pytest.raises(ValueError, match=r"A map of shape \(4, 9\) has a mask of shape \(11, 9\)"):
        pixel_metrics(2, lambda i: maps[i, :4], lambda i: masks[i])
