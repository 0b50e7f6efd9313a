"""Tests of overrides per category, from the command line to the loaded model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.composing import once
from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.detector.feature_set import FIRST
from moleflow.detector.overrides import (
    apply_overrides,
    check_per_category,
    expert_overrides,
    overridable_keys,
    override_keys,
    task_epochs,
)
from moleflow.inference.onnx import DeployedExpert
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.input_adapters import AffineNormAdapter, ClosedFormWhitening
from moleflow.utils.errors import UserError

PER_CATEGORY = (
    "+per_category={screw: {epochs: 3, loss: {tail_weight: 1.0}, scoring: {aggregation: max, pool: 3}, "
    "model: {adapter: closed_form_whitening}, transform: {size: [64, 96]}}}"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), good=2, defect=2)


def command(root: Path, *overrides: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", *TINY, "epochs=1", *overrides]


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run_program(command(root, PER_CATEGORY, "callbacks=default"), folder)


def test_overrides_apply_to_one_expert_only(finished: tuple[Path, dict[str, Any]], root: Path, tmp_path: Path) -> None:
    folder, metrics = finished
    assert [len(epochs) for epochs in metrics["training"]["epochs"]] == [1, 3]
    first = metrics["training"]["epochs"][1][0]
    assert first["loss"] == pytest.approx(first["nll_tail"] + first["logdet_penalty"])
    plain = run_program(command(root), tmp_path)
    assert metrics["per_category"]["bottle"]["oracle"] == plain["per_category"]["bottle"]["oracle"]
    assert metrics["routing"] == plain["routing"], "images are routed at the model's image size"
    manifest = json.loads((folder / "model" / "manifest.json").read_text())
    bottle, screw = manifest["experts"]
    assert "overrides" not in bottle
    assert screw["overrides"]["transform"] == {"size": [64, 96]}
    assert screw["overrides"]["epochs"] == 3


def test_loaded_model_reproduces_the_scores_of_the_run(finished: tuple[Path, dict[str, Any]], root: Path) -> None:
    folder, _ = finished
    model = MoLEFlow.load(folder)
    assert isinstance(model.patch_model, ExpertFlow)
    assert isinstance(model.patch_model.expert("screw").adapter, ClosedFormWhitening)
    assert isinstance(model.patch_model.expert("bottle").adapter, AffineNormAdapter)
    lines = [line.split(",") for line in (folder / "scores.csv").read_text().splitlines()[1:]]
    scored = model.score([root / line[0] for line in lines])
    assert [repr(image.score) for image in scored] == [line[4] for line in lines]
    assert {image.anomaly_map.shape for image in scored} == {(64, 64)}
    assert {line[5] for line in lines} == {"bottle", "screw"}
    paths = [root / line[0] for line in lines if line[5] == "screw"]
    assert model.experts["screw"].extractor.features(paths).shape[1:3] == (8, 12)
    assert {prediction.verdict for prediction in model.predict(paths)} <= {"normal", "defect", "unknown"}


def test_expert_is_deployed_at_its_own_size(finished: tuple[Path, dict[str, Any]]) -> None:
    model = MoLEFlow.load(finished[0])
    deployed = DeployedExpert(model, "screw").eval()
    scores, maps = deployed({FIRST: torch.rand(2, 8, 12, model.settings["backbone"]["dim"])})
    assert (scores.shape, maps.shape) == ((2,), (2, 64, 64))


def test_changed_override_is_another_configuration(finished: tuple[Path, dict[str, Any]], root: Path) -> None:
    with pytest.raises(UserError, match=r"per_category\.screw\.epochs: 3 there, 4 now"):
        run_program(command(root, PER_CATEGORY.replace("epochs: 3", "epochs: 4")), finished[0])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{screws: {epochs: 3}}", r"per_category\.screws is not a category.*'screw'"),
        ("{screw: {epoch: 3}}", r"per_category\.screw\.epoch is unknown.*'epochs'"),
        ("{screw: {loss: {tail_wait: 3}}}", r"screw\.loss\.tail_wait is unknown.*'loss.tail_weight'"),
        ("{screw: {loss: {tail_weight: -3}}}", r"^per_category\.screw\.loss\.tail_weight=-3 must"),
        ("{screw: {epochs: 0}}", r"per_category\.screw\.epochs=0 must be"),
        ("{screw: {augmentation: turns}}", r"^per_category\.screw\.augmentation=turns is unknown"),
        ("{screw: {scoring: {map_size: 3}}}", r"scoring\.map_size is unknown"),
        ("{screw: {scoring: {top_k: 300}}}", r"^per_category\.screw\.scoring\.top_k=300 is more than the 64 patches"),
        ("{screw: {model: {adapter: wite}}}", r"^per_category\.screw\.model\.adapter=wite is unknown"),
        ("{screw: {model: {coupling_layers: 3}}}", r"model\.coupling_layers is unknown"),
        ("{screw: {transform: {size: 0}}}", r"^per_category\.screw\.transform\.size=0 must be one positive integer"),
        ("{screw: {transform: {size: big}}}", r"^per_category\.screw\.transform\.size=big must be a whole number or"),
        ("{screw: 3}", r"per_category\.screw must map keys to values"),
        ("3", "per_category must map categories to overrides"),
    ],
)
def test_invalid_overrides_are_errors_before_training(value: str, message: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run_program(command(root, f"{'+' if '{' in value else ''}per_category={value}"), tmp_path)
    assert not (tmp_path / "model").exists()


def test_categories_of_one_expert_and_experts_of_one_task_share_overrides(root: Path, tmp_path: Path) -> None:
    one_task = command(root, "scenario.split=2-1")
    with pytest.raises(UserError, match="One expert is trained on bottle and screw"):
        run_program([*one_task, PER_CATEGORY], tmp_path / "one")
    with pytest.raises(UserError, match="epochs of one task's experts to 1 and 3"):
        run_program([*one_task, PER_CATEGORY, "scenario.experts=category"], tmp_path / "two")
    equal = "+per_category={bottle: {transform: {size: 96}}, screw: {transform: {size: 96}}}"
    assert run_program([*one_task, equal], tmp_path / "equal")["training"]["steps"] == 3
    separate = "+per_category={screw: {loss: {tail_weight: 1.0}, transform: {size: 96}}}"
    metrics = run_program([*one_task, separate, "scenario.experts=category"], tmp_path / "separate")
    assert metrics["training"]["steps"] == 4


def test_overridable_keys_of_a_configuration() -> None:
    settings = once(*TINY, "dataset=folder", "dataset.root=unused")
    keys = overridable_keys(settings)
    assert {"epochs", "augmentation", "loss.tail_weight", "scoring.top_k", "model.adapter", "transform.size"} <= {*keys}
    assert not {"scoring.map_size", "scoring.standardize", "loss._target_", "model.coupling_layers", "seed"} & {*keys}
    settings["per_category"] = {"screw": {"epochs": 3}, "tile": {}}
    assert check_per_category(settings, ["tile", "screw"]) == settings["per_category"]


def test_overrides_of_experts_and_tasks() -> None:
    per_category = {"screw": {"epochs": 3}, "bolt": {"epochs": 3}}
    assert expert_overrides(per_category, ["screw", "bolt"]) == {"epochs": 3}
    assert expert_overrides(per_category, ["bottle"]) == {}
    with pytest.raises(UserError, match=r"per_category\.bottle and per_category\.screw differ"):
        expert_overrides(per_category, ["bottle", "screw"])
    assert task_epochs([{}, {"epochs": 60}], 60) == 60
    assert task_epochs([{"epochs": 3}], 60) == 3
    with pytest.raises(UserError, match="3 and 60"):
        task_epochs([{}, {"epochs": 3}], 60)


def test_overrides_replace_settings_of_their_component() -> None:
    overrides = {"loss": {"tail_weight": 1.0}, "epochs": 3, "model": {}}
    assert apply_overrides({"tail_weight": 0.5, "lambda_logdet": 0.1}, overrides, "loss") == {
        "tail_weight": 1.0,
        "lambda_logdet": 0.1,
    }
    assert apply_overrides({"size": 64}, overrides, "transform") == {"size": 64}
    assert list(override_keys(overrides)) == ["loss.tail_weight", "epochs"]
