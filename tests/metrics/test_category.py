"""Metrics of one category: batches, masks and invalid input."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from moleflow.metrics.aupro import per_region_overlap
from moleflow.metrics.category import CategoryMetrics
from moleflow.utils.random import generator

PIXEL = ("pixel_auroc", "pixel_ap", "pro", "pro_5")


def _images(count: int = 13) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = generator(0, "test-category")
    masks = torch.rand(count, 12, 10, generator=draw) < 0.1
    masks[::2] = False
    labels = masks.flatten(1).any(dim=1)
    maps = -700 + 50 * torch.randn(count, 12, 10, generator=draw) + 60 * masks
    return maps, masks, maps.flatten(1).amax(dim=1), labels.long()


def _metric(batch: int, with_masks: bool = True) -> CategoryMetrics:
    metric = CategoryMetrics()
    for maps, masks, scores, labels in zip(*(part.split(batch) for part in _images()), strict=True):
        metric.update(maps if with_masks else None, masks if with_masks else None, scores, labels)
    return metric


def test_equals_scikit_learn() -> None:
    maps, masks, scores, labels = _images()
    values = _metric(4).compute()
    assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert values["image_ap"] == pytest.approx(average_precision_score(labels, scores))
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(masks.flatten(), maps.flatten()))
    assert values["pixel_ap"] == pytest.approx(average_precision_score(masks.flatten(), maps.flatten()))
    assert values["pro"] == pytest.approx(per_region_overlap(maps, masks))


def test_metrics_do_not_depend_on_the_batch_size() -> None:
    assert _metric(1).compute() == _metric(5).compute() == _metric(13).compute()


def test_without_masks_only_image_metrics_are_returned() -> None:
    values = _metric(4, with_masks=False).compute()
    assert set(values) == {"image_auroc", "image_ap"}
    assert values["image_auroc"] == _metric(4).compute()["image_auroc"]


def test_maps_without_masks_are_not_stored() -> None:
    metric = CategoryMetrics()
    maps, _, scores, labels = _images()
    metric.update(maps, None, scores, labels)
    assert metric.maps == []


def test_a_category_without_test_defects_has_nan() -> None:
    metric = CategoryMetrics()
    maps, masks, scores, labels = _images()
    metric.update(maps, torch.zeros_like(masks), scores, torch.zeros_like(labels))
    values = metric.compute()
    assert set(values) == {"image_auroc", "image_ap", *PIXEL}
    assert all(math.isnan(value) for value in values.values())


def test_state_has_no_more_than_maps_masks_scores_and_labels() -> None:
    metric = _metric(4)
    size = sum(t.numel() * t.element_size() for name in metric._defaults for t in getattr(metric, name))
    maps, masks, scores, labels = _images()
    assert size == maps.numel() * 4 + masks.numel() + scores.numel() * 4 + labels.numel()


def test_reset_clears_the_state() -> None:
    metric = _metric(4)
    metric.reset()
    maps, masks, scores, labels = _images()
    metric.update(maps, masks, scores, labels)
    assert metric.compute() == _metric(4).compute()


def test_nan_is_an_error() -> None:
    metric = CategoryMetrics()
    maps, masks, scores, labels = _images()
    maps[3, 2, 1] = torch.nan
    metric.update(maps, masks, scores, labels)
    with pytest.raises(ValueError, match="NaN"):
        metric.compute()


def test_mismatched_shapes_are_errors() -> None:
    maps, masks, scores, labels = _images()
    with pytest.raises(ValueError, match=r"\(B,\)"):
        CategoryMetrics().update(maps, masks, scores[:-1], labels)
    for wrong in (None, maps[:-1], maps[:, None], maps[:, :-1]):
        with pytest.raises(ValueError, match=r"\(B, H, W\)"):
            CategoryMetrics().update(wrong, masks, scores, labels)


def test_masks_for_some_batches_only_are_an_error() -> None:
    metric = _metric(13)
    maps, _, scores, labels = _images()
    with pytest.raises(ValueError, match="Some batches"):
        metric.update(maps, None, scores, labels)


def test_no_image_is_an_error() -> None:
    metric = CategoryMetrics()
    metric._update_count = 1  # without an update torchmetrics would warn
    with pytest.raises(ValueError, match="no scored image"):
        metric.compute()


def test_an_empty_batch_is_no_image() -> None:
    metric = CategoryMetrics()
    metric.update(None, None, torch.empty(0), torch.empty(0))
    with pytest.raises(ValueError, match="no scored image"):
        metric.compute()
