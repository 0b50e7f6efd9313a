"""Tests of runs with ``callbacks=diagnostics``: content of the files, models without some quantities, resumed runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.program import TINY, run_program
from helpers.stopping import stop_and_resume
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.detector.base import mean_features
from moleflow.evaluation.diagnostics import NO_FLOW, NO_GRADIENT, NO_LORA, ONE_EXPERT, expert_diagnostics
from moleflow.models.flow.loss import FlowLoss


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), ["bottle", "cable"], train=4, good=2, defect=2)


def command(root: Path, *overrides: str) -> list[str]:
    data = ["dataset=folder", f"dataset.root={root}"]
    return [*data, *TINY, "callbacks=diagnostics", "~callbacks.pictures", *overrides]


def read_diagnostics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "diagnostics").iterdir())]


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_program(command(root), folder)
    return folder


def test_one_file_per_task_describes_the_saved_model(finished: Path, root: Path) -> None:
    first, second = read_diagnostics(finished)
    assert list(first["experts"]) == ["bottle"]
    assert first["router"] == ONE_EXPERT
    assert list(second["experts"]) == ["cable"]
    model = MoLEFlow.load(finished)
    paths = sorted((root / "bottle" / "test").rglob("*.png"))
    distances = model.router.distances(mean_features(model.extractor.features(paths)))
    margins = distances[:, 1] - distances[:, 0]
    assert second["router"]["bottle"]["minimum"] == pytest.approx(float(margins.min()))
    assert second["router"]["bottle"]["median"] == pytest.approx(float(margins.quantile(0.5)))
    features = model.extractor.features(sorted((root / "cable" / "train" / "good").iterdir()))
    expected = json.loads(json.dumps(expert_diagnostics(model.patch_model, "cable", features, FlowLoss())))
    cable = second["experts"]["cable"]
    # Rounding of summed gradients depends on the alignment of their memory.
    shares, expected_shares = (entry.pop("gradient")["shares"] for entry in (cable, expected))
    assert shares == pytest.approx(expected_shares, rel=1e-6)
    assert cable == expected


def test_resumed_run_has_the_same_files(finished: Path, root: Path, tmp_path: Path) -> None:
    stop_and_resume(command(root), tmp_path, task=1, epoch=0)
    assert read_diagnostics(tmp_path) == read_diagnostics(finished)


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        ("gaussian", {"gradient": NO_GRADIENT, "lora": NO_LORA}),
        ("whitened", {"lora": NO_LORA}),
        ("padim", {"latent": NO_FLOW, "log_determinant": NO_FLOW, "gradient": NO_FLOW, "lora": NO_FLOW}),
    ],
)
def test_reason_in_place_of_each_missing_quantity(
    model: str, missing: dict[str, str], root: Path, tmp_path: Path
) -> None:
    channels = ["model.channels=8"] if model == "padim" else []
    tiny = [override for override in command(root) if not override.startswith("model.")]
    run_program([*tiny, f"model={model}", *channels, "dataset.categories=[bottle]", "epochs=1"], tmp_path)
    (content,) = read_diagnostics(tmp_path)
    entry = content["experts"]["bottle"]
    assert {key: value for key, value in entry.items() if isinstance(value, str)} == missing
    assert entry["tail"]["patches"] == 1
    if model == "gaussian":
        assert entry["log_determinant"] == {"mean": 0.0, "sd": 0.0, "correlation_with_square": None}
