"""Tests of the validation images of a run: excluded from training, measured every epoch, and warned of."""

import csv
import json
import logging
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.program import TINY, run_program
from helpers.stopping import stop_and_resume
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.data.samples import Sample
from moleflow.data.splits import ValidationSplit
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import patch_nll
from moleflow.training import lightning_module
from moleflow.training.validation import validation_nll, warn_of_overfitting


def test_validation_nll_with_the_omitted_log_determinant() -> None:
    flow = ExpertFlow(8, coupling_layers=1, lora_rank=2, spatial_context_mode="blur")
    flow.add_expert("a")
    with torch.no_grad():
        flow.expert("a").adapter.raw_scale.fill_(-50.0)  # type: ignore[operator, union-attr]
    x = torch.randn(11, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    result = validation_nll(flow, {"a": x})
    assert result["held_out_nll"] == pytest.approx(patch_nll(*flow(x, "a")).mean().item(), rel=1e-6)
    assert result["held_out_nll_counted"] == pytest.approx(result["held_out_nll"] - 8 * np.log(0.5), rel=1e-6)
    assert validation_nll(flow, {}) == {}


def test_validation_nll_is_the_mean_over_all_patches() -> None:
    flow = ExpertFlow(8, coupling_layers=1, lora_rank=2)
    draw = torch.Generator().manual_seed(0)
    features = {"a": torch.randn(9, 4, 4, 8, generator=draw), "b": torch.randn(2, 3, 5, 8, generator=draw)}
    for name in features:
        flow.add_expert(name)
    nll = torch.cat([patch_nll(*flow(x, name)).flatten() for name, x in features.items()])
    assert validation_nll(flow, features)["held_out_nll"] == pytest.approx(nll.mean().item(), rel=1e-6)


@pytest.mark.parametrize("setting", [{"spatial_context_mode": "full"}, {"adapter": "soft_norm"}])
def test_unknown_log_determinant_is_left_out(setting: dict[str, Any]) -> None:
    flow = ExpertFlow(8, coupling_layers=1, lora_rank=2, **setting)
    flow.add_expert("a")
    assert set(validation_nll(flow, {"a": torch.zeros(1, 4, 4, 8)})) == {"held_out_nll"}


def test_warning_in_the_first_epoch_of_overfitting_only(caplog: pytest.LogCaptureFixture) -> None:
    values = zip([100.0, 50, 20, 10, 0], [100.0, 60, 62, 70, 90], strict=True)
    history = [{"epoch": float(i), "nll_mean": t, "held_out_nll": v} for i, (t, v) in enumerate(values)]
    with caplog.at_level(logging.WARNING):
        for end in range(1, 6):
            warn_of_overfitting(history[:end], "task 1/2 bottle")
    (record,) = caplog.records
    assert record.getMessage().startswith("task 1/2 bottle: from epoch 1 to 3")
    assert "(epochs=2)" in record.getMessage()


# -- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), ["bottle", "cable"], train=5, good=1, defect=1)


def command(root: Path, *overrides: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", *TINY, *overrides]


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run_program(command(root, "validation=0.4"), folder)


def test_run_equals_a_run_on_a_tree_without_the_validation_images(
    finished: tuple[Path, dict[str, Any]], root: Path, tmp_path: Path
) -> None:
    folder, metrics = finished
    assert [values["train_pictures"] for values in metrics["per_category"].values()] == [3, 3]
    model = MoLEFlow.load(folder)
    assert [model.router.statistics(name).count for name in ("bottle", "cable")] == [3, 3]
    training = [record.training for record in model.experts.values()]
    assert [0 if scores is None else len(scores.scores) for scores in training] == [3, 3]
    smaller = write_mvtec_tree(tmp_path / "tree", ["bottle", "cable"], train=5, good=1, defect=1)
    for category in ("bottle", "cable"):
        paths = sorted((smaller / category / "train" / "good").iterdir())
        samples = [Sample(path, category, "train", "good", None) for path in paths]
        for sample in ValidationSplit(0.4, 0)(samples)[1]:
            sample.path.unlink()
    run_program(command(smaller), tmp_path / "run")
    assert (folder / "model/base.safetensors").read_bytes() == (tmp_path / "run/model/base.safetensors").read_bytes()
    smaller_model = MoLEFlow.load(tmp_path / "run")
    for name in ("bottle", "cable"):
        state, expected = model.expert_state(name), smaller_model.expert_state(name)
        assert state.keys() - expected.keys() == {"normal.values"}
        assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_thresholds_of_a_flow_are_those_of_the_validation_images(
    finished: tuple[Path, dict[str, Any]], root: Path
) -> None:
    folder, metrics = finished
    model = MoLEFlow.load(folder)
    for category in ("bottle", "cable"):
        paths = sorted((root / category / "train" / "good").iterdir())
        samples = [Sample(path, category, "train", "good", None) for path in paths]
        validation = [sample.path for sample in ValidationSplit(0.4, 0)(samples)[1]]
        thresholds = model.thresholds(category)
        assert thresholds.source == "validation"
        assert thresholds.normal_scores == sorted(image.score for image in model.score(validation, category))
        assert metrics["thresholds"][category]["source"] == "validation"
        assert metrics["thresholds"][category]["score_threshold"] == thresholds.score.value


def test_validation_nll_is_logged_every_epoch(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = finished
    with next((folder / "logs").rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/nll"]]
    history = [epoch for task in metrics["training"]["epochs"] for epoch in task]
    assert len(rows) == len(history) == 4
    for row, epoch in zip(rows, history, strict=True):
        assert float(row["val/nll"]) == pytest.approx(epoch["held_out_nll"], rel=1e-5)
        assert float(row["val/nll_counted"]) == pytest.approx(epoch["held_out_nll_counted"], rel=1e-5)


def test_resumed_run_has_the_same_split_and_one_warning(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = command(root, "validation=2", "epochs=4", "dataset.categories=[bottle]", "optimizer.lr=1e-3")
    reference = run_program(overrides, tmp_path / "reference")
    resumed = stop_and_resume(overrides, tmp_path / "resumed", task=0, epoch=1)
    assert json.dumps(resumed["training"]) == json.dumps(reference["training"])
    for epoch in (None, 0, 2):
        caplog.clear()
        rising = count()
        monkeypatch.setattr(lightning_module, "validation_nll", lambda *_, r=rising: {"held_out_nll": float(next(r))})
        with caplog.at_level(logging.WARNING):
            if epoch is None:
                run_program(overrides, tmp_path / "uninterrupted")
            else:
                stop_and_resume(overrides, tmp_path / f"resumed{epoch}", task=0, epoch=epoch)
        messages = [record.getMessage() for record in caplog.records if "overfitting" in record.getMessage()]
        assert len(messages) == 1
        assert messages[0].startswith("task 1/1 bottle: from epoch 0 to 2 the training NLL fell from ")
        assert "validation" in messages[0]
        assert "from 0.0 to 2.0" in messages[0]
        assert "epochs=1" in messages[0]
