"""One category's metrics: batches, masks, faults, and two processes."""

import math
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from moleflow.metrics import CategoryMetrics, per_region_overlap
from moleflow.randomness import generator

PIXEL = ("pixel_auroc", "pixel_ap", "pro")


def _pictures(count: int = 13) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = generator(0, "test-category")
    masks = torch.rand(count, 12, 10, generator=draw) < 0.1
    masks[::2] = False
    labels = masks.flatten(1).any(dim=1)
    maps = -700 + 50 * torch.randn(count, 12, 10, generator=draw) + 60 * masks
    return maps, masks, maps.flatten(1).amax(dim=1), labels.long()


def _filled(batch: int, with_masks: bool = True) -> CategoryMetrics:
    metric = CategoryMetrics()
    for maps, masks, scores, labels in zip(*(part.split(batch) for part in _pictures()), strict=True):
        metric.update(maps if with_masks else None, masks if with_masks else None, scores, labels)
    return metric


def test_equals_scikit_learn() -> None:
    maps, masks, scores, labels = _pictures()
    values = _filled(4).compute()
    assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert values["image_ap"] == pytest.approx(average_precision_score(labels, scores))
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(masks.flatten(), maps.flatten()))
    assert values["pixel_ap"] == pytest.approx(average_precision_score(masks.flatten(), maps.flatten()))
    assert values["pro"] == pytest.approx(per_region_overlap(maps, masks))


def test_batch_size_changes_nothing() -> None:
    assert _filled(1).compute() == _filled(5).compute() == _filled(13).compute()


def test_without_masks_there_are_image_metrics_only() -> None:
    values = _filled(4, with_masks=False).compute()
    assert set(values) == {"image_auroc", "image_ap"}
    assert values["image_auroc"] == _filled(4).compute()["image_auroc"]


def test_maps_without_masks_are_not_kept() -> None:
    metric = CategoryMetrics()
    maps, _, scores, labels = _pictures()
    metric.update(maps, None, scores, labels)
    assert metric.maps == []


def test_a_category_without_test_defects_has_nan() -> None:
    metric = CategoryMetrics()
    maps, masks, scores, labels = _pictures()
    metric.update(maps, torch.zeros_like(masks), scores, torch.zeros_like(labels))
    values = metric.compute()
    assert set(values) == {"image_auroc", "image_ap", *PIXEL}
    assert all(math.isnan(value) for value in values.values())


def test_state_is_maps_and_masks_and_no_more() -> None:
    metric = _filled(4)
    kept = sum(t.numel() * t.element_size() for name in metric._defaults for t in getattr(metric, name))
    maps, masks, scores, labels = _pictures()
    assert kept == maps.numel() * 4 + masks.numel() + scores.numel() * 4 + labels.numel()


def test_reset_forgets() -> None:
    metric = _filled(4)
    metric.reset()
    maps, masks, scores, labels = _pictures()
    metric.update(maps, masks, scores, labels)
    assert metric.compute() == _filled(4).compute()


def test_nan_is_an_error() -> None:
    metric = CategoryMetrics()
    maps, masks, scores, labels = _pictures()
    maps[3, 2, 1] = torch.nan
    metric.update(maps, masks, scores, labels)
    with pytest.raises(ValueError, match="NaN"):
        metric.compute()


def test_shapes_that_do_not_fit_are_errors() -> None:
    maps, masks, scores, labels = _pictures()
    with pytest.raises(ValueError, match=r"\(B,\)"):
        CategoryMetrics().update(maps, masks, scores[:-1], labels)
    for wrong in (None, maps[:-1], maps[:, None], maps[:, :-1]):
        with pytest.raises(ValueError, match=r"\(B, H, W\)"):
            CategoryMetrics().update(wrong, masks, scores, labels)


def test_masks_come_for_all_batches_or_none() -> None:
    metric = _filled(13)
    maps, _, scores, labels = _pictures()
    with pytest.raises(ValueError, match="Some batches"):
        metric.update(maps, None, scores, labels)


def test_nothing_scored_is_an_error() -> None:
    metric = CategoryMetrics()
    metric._update_count = 1  # as in a process that only follows; torchmetrics would warn first
    with pytest.raises(ValueError, match="No picture"):
        metric.compute()


def _process(rank: int, port: int, folder: str) -> None:
    """One of two processes; the second has no picture of the category "few" and none has masks of "bare"."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    maps, masks, scores, labels = _pictures()
    results = {}
    for name, share in {
        "all": slice(rank * 5, 5 + rank * 8),
        "few": slice(rank * 13, 13),
        "bare": slice(rank, None, 2),
    }.items():
        metric = CategoryMetrics()
        if len(scores[share]):
            seen = (None, None) if name == "bare" else (maps[share], masks[share])
            metric.update(*seen, scores[share], labels[share])
        else:
            metric._update_count = 1
        results[name] = metric.compute()
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_count_each_picture_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.set_forkserver_preload([__name__])  # imported once for both
    torch.multiprocessing.start_processes(_process, (port, str(tmp_path)), nprocs=2, start_method="forkserver")
    one = {"all": _filled(13).compute(), "few": _filled(13).compute(), "bare": _filled(13, with_masks=False).compute()}
    for rank in range(2):
        two = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert {name: set(values) for name, values in two.items()} == {name: set(v) for name, v in one.items()}
        for name, values in one.items():
            assert two[name] == pytest.approx(values, abs=1e-12)
