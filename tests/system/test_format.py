"""Tests of run folders of released formats: they load, return the recorded scores and are read as finished runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.format_fixtures import FIXTURES, environment, record_experts, record_scores, sample_weights, write_images
from helpers.program import CONF
from moleflow import MoLEFlow
from moleflow.catalogue.entries import entries, match_runs, unmatched_runs
from moleflow.detector.store import FORMAT, ModelStore
from moleflow.features.backbone import PatchBackbone
from moleflow.runs.folder import RunFolder
from moleflow.runs.progress import Progress
from moleflow.runs.reader import load_config, load_run, read_runs
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_checksummed_json, write_checksummed_json

RUNS = sorted(path.with_suffix("") for path in FIXTURES.glob("format*/*.json"))


def run_id(run: Path) -> str:
    return f"{run.parent.name}/{run.name}"


def read_record(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(run.with_suffix(".json").read_text())
    return record


def assert_close(value: Any, expected: Any) -> None:
    """Assert that nested values are equal, numbers to 1e-4 of the number, or absolutely if it is below 1."""
    if isinstance(expected, dict):
        assert value.keys() == expected.keys()
        for key in expected:
            assert_close(value[key], expected[key])
    elif isinstance(expected, list):
        for one, other in zip(value, expected, strict=True):
            assert_close(one, other)
    else:
        assert value == (pytest.approx(expected, rel=1e-4, abs=1e-4) if isinstance(expected, float) else expected)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def any_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models load that were trained with other backbone weights."""
    accept_backbone(monkeypatch, RUNS[0])


def accept_backbone(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    spec = ModelStore(run / "model").manifest()["settings"]["backbone_spec"]
    monkeypatch.setattr(PatchBackbone, "spec", lambda self: spec)


def test_current_format_has_run_folders() -> None:
    assert [run.name for run in RUNS if run.parent.name == f"format{FORMAT}"] == ["flow", "mixture"]


@pytest.mark.parametrize("run", RUNS, ids=run_id)
def test_loaded_model_returns_the_recorded_scores(run: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are equal to the last bit on the processor and with the versions of the record.

    Elsewhere the tolerance is 1e-4, because other kernels sum in another order, and because torch rounds the random
    weights of the backbone differently (with and without AVX2 instructions, for example), which standardization and
    whitening amplify. If a version of torch or timm draws entirely other weights from the same seed, the features
    differ, and only the next two tests apply.
    """
    record = read_record(run)
    same_environment = record["environment"] == environment()
    if not same_environment:
        accept_backbone(monkeypatch, run)
    model = MoLEFlow.load(run)
    if not same_environment and sample_weights(model) != pytest.approx(record["weights"], rel=1e-3):
        pytest.skip("these versions of torch and timm draw other random backbone weights")
    scores = record_scores(model, root)
    if same_environment:
        assert scores == record["scores"]
    else:
        assert_close(scores, record["scores"])


@pytest.mark.parametrize("run", RUNS, ids=run_id)
@pytest.mark.usefixtures("any_backbone")
def test_loaded_model_has_the_recorded_experts_and_thresholds(run: Path) -> None:
    assert_close(record_experts(MoLEFlow.load(run)), read_record(run)["experts"])


@pytest.mark.parametrize("run", [run for run in RUNS if run.parent.name == f"format{FORMAT}"], ids=run_id)
@pytest.mark.usefixtures("any_backbone")
def test_loaded_model_is_saved_to_equal_files(run: Path, tmp_path: Path) -> None:
    MoLEFlow.load(run).save(tmp_path)
    before, after = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (run / "model", tmp_path)
    )
    assert before == after


@pytest.mark.parametrize("run", RUNS, ids=run_id)
def test_run_folder_is_finished_and_belongs_to_its_configuration(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    run_folder = RunFolder(folder, load_config(folder))
    assert run_folder.is_finished()
    run_folder.claim(force=False)
    with pytest.raises(UserError, match=r"seed: 0 there, 1 now"):
        RunFolder(folder, load_config(folder) | {"seed": 1}).claim(force=False)
    assert Progress.read(folder / "state" / "progress.json").tasks_done == 2


@pytest.mark.parametrize("run", RUNS, ids=run_id)
def test_reader_returns_metrics_and_scores(run: Path) -> None:
    reading = load_run(run)
    assert reading.categories == ["bottle", "screw"]
    assert reading.value("image_auroc") is not None
    scores = {path: image["score"] for path, image in read_record(run)["scores"].items()}
    assert_close({row["path"]: float(row["image_score"]) for row in reading.scores()}, scores)


def test_catalogue_compares_the_configurations() -> None:
    catalogue = [entry for entry in entries(CONF) if entry.name == "quickstart"]
    for folder in sorted({run.parent for run in RUNS}):
        runs, faults = read_runs([folder])
        assert not faults
        assert {run.folder for run in runs} == {run for run in RUNS if run.parent == folder}
        matches = match_runs(CONF, catalogue, runs)
        assert not matches
        assert unmatched_runs(runs, matches) == [[run] for run in runs]


@pytest.mark.parametrize("version", [0, FORMAT + 1, "1", None])
def test_unknown_format_is_an_error(version: object, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / f"format{FORMAT}" / "mixture", tmp_path / "run")
    path = folder / "model" / "manifest.json"
    write_checksummed_json(path, read_checksummed_json(path) | {"format": version})
    with pytest.raises(UserError, match=rf"manifest\.json is not a model manifest of format=1 or {FORMAT}"):
        MoLEFlow.load(folder)
