"""Settings per category: what an expert has of its own, from the command line to the loaded model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.errors import UserError
from moleflow.flow.adapters import StatisticsAdapter, WhiteningAdapter
from moleflow.inference.export import DeployedExpert

OWN = (
    "+per_category={screw: {epochs: 3, loss: {tail_weight: 1.0}, scoring: {aggregation: max, pool: 3}, "
    "model: {adapter: statistics}, transform: {size: [64, 96]}}}"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), good=2, defect=2)


def overrides(root: Path, *more: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", *TINY, "epochs=1", *more]


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run_program(overrides(root, OWN, "callbacks=default"), folder)


def test_the_expert_has_its_own_and_no_other_one_changes(
    finished: tuple[Path, dict[str, Any]], root: Path, tmp_path: Path
) -> None:
    folder, metrics = finished
    assert [len(epochs) for epochs in metrics["training"]["epochs"]] == [1, 3]
    assert metrics["training"]["epochs"][1][0]["loss"] == pytest.approx(
        metrics["training"]["epochs"][1][0]["nll_tail"] + metrics["training"]["epochs"][1][0]["logdet_penalty"]
    )
    plain = run_program(overrides(root), tmp_path)
    assert metrics["per_category"]["bottle"]["oracle"] == plain["per_category"]["bottle"]["oracle"]
    assert metrics["routing"] == plain["routing"], "pictures are routed at the common size"
    manifest = json.loads((folder / "model" / "manifest.json").read_text())
    bottle, screw = manifest["experts"]
    assert "settings" not in bottle
    assert screw["settings"]["transform"] == {"size": [64, 96]}
    assert screw["settings"]["epochs"] == 3


def test_a_loaded_model_scores_as_the_run_did(finished: tuple[Path, dict[str, Any]], root: Path) -> None:
    folder, _ = finished
    model = MoLEFlow.load(folder)
    assert isinstance(model.flow.expert("screw").adapter, StatisticsAdapter)
    assert isinstance(model.flow.expert("bottle").adapter, WhiteningAdapter)
    lines = [line.split(",") for line in (folder / "scores.csv").read_text().splitlines()[1:]]
    scored = model.score([root / line[0] for line in lines])
    assert [repr(one.score) for one in scored] == [line[4] for line in lines]
    assert {one.anomaly_map.shape for one in scored} == {(64, 64)}
    assert {line[5] for line in lines} == {"bottle", "screw"}
    paths = [root / line[0] for line in lines if line[5] == "screw"]
    assert model.extractor_of("screw").features(paths).shape[1:3] == (8, 12)
    assert {p.verdict for p in model.predict(paths)} <= {"normal", "defect", "unknown"}


def test_an_expert_is_deployed_at_its_own_size(finished: tuple[Path, dict[str, Any]]) -> None:
    model = MoLEFlow.load(finished[0])
    deployed = DeployedExpert(model, "screw").eval()
    scores, maps = deployed(torch.rand(2, 3, 64, 96))
    assert (scores.shape, maps.shape) == ((2,), (2, 64, 64))


def test_another_value_is_another_configuration(finished: tuple[Path, dict[str, Any]], root: Path) -> None:
    with pytest.raises(UserError, match=r"per_category\.screw\.epochs: 3 there, 4 now"):
        run_program(overrides(root, OWN.replace("epochs: 3", "epochs: 4")), finished[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{screws: {epochs: 3}}", r"per_category\.screws is no category.*'screw'"),
        ("{screw: {epoch: 3}}", r"per_category\.screw\.epoch is unknown.*'epochs'"),
        ("{screw: {loss: {tail_wait: 3}}}", r"screw\.loss\.tail_wait is unknown.*'loss.tail_weight'"),
        ("{screw: {loss: {tail_weight: -3}}}", r"^per_category\.screw\.loss\.tail_weight=-3 must be"),
        ("{screw: {epochs: 0}}", r"per_category\.screw\.epochs=0 must be"),
        ("{screw: {scoring: {map_size: 3}}}", r"scoring\.map_size is unknown"),
        ("{screw: {scoring: {top_k: 300}}}", r"^per_category\.screw\.scoring\.top_k=300 is more than the 64 patches"),
        ("{screw: {model: {adapter: wite}}}", r"^per_category\.screw\.model\.adapter=wite is unknown"),
        ("{screw: {model: {coupling_layers: 3}}}", r"model\.coupling_layers is unknown"),
        ("{screw: {transform: {size: 0}}}", r"^per_category\.screw\.transform\.size=0 is no picture size"),
        ("{screw: {transform: {size: big}}}", r"^per_category\.screw\.transform\.size=big must be a whole number or"),
        ("{screw: 3}", r"per_category\.screw holds settings"),
        ("3", "per_category holds settings"),
    ],
)
def test_nonsense_is_told_before_training(given: str, message: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run_program(overrides(root, f"{'+' if '{' in given else ''}per_category={given}"), tmp_path)
    assert not (tmp_path / "model").exists()


def test_one_expert_has_one_set_of_settings(root: Path, tmp_path: Path) -> None:
    together = overrides(root, "scenario.split=2-1")
    with pytest.raises(UserError, match="One expert learns bottle and screw"):
        run_program([*together, OWN], tmp_path / "one")
    with pytest.raises(UserError, match="1 and 3 epochs"):
        run_program([*together, OWN, "scenario.experts=category"], tmp_path / "two")
    same = "+per_category={bottle: {transform: {size: 96}}, screw: {transform: {size: 96}}}"
    assert run_program([*together, same], tmp_path / "same")["training"]["steps"] == 3
    apart = "+per_category={screw: {loss: {tail_weight: 1.0}, transform: {size: 96}}}"
    assert run_program([*together, apart, "scenario.experts=category"], tmp_path / "apart")["training"]["steps"] == 4
