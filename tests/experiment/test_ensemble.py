"""Tests of the evaluation of ensembles: run folder, metrics, and runs that do not match."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.cli.command import main
from moleflow.detector.predictor import Predictor
from moleflow.experiment.ensemble import evaluate_ensemble
from moleflow.inference.ensemble import load_detector
from moleflow.reports.sections.warnings import run_warnings
from moleflow.runs.reader import Run, read_run
from moleflow.scoring.calibration import ScoreStandardizer
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), good=2, defect=2)


def train_member(root: Path, folder: Path, *overrides: str) -> Path:
    run_program(["dataset=folder", f"dataset.root={root}", *TINY, "epochs=1", "model=gaussian", *overrides], folder)
    return folder


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return a Gaussian at 64 pixels, a flow at 96 on other layers, and a memory bank with standardized scores."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        train_member(root, folder / "small"),
        train_member(root, folder / "large", "model=whitened", "transform.size=96", "backbone.layers=[layer1,layer2]"),
        train_member(
            root, folder / "memory", "model=whitened_memory", "model.memory_size=20", "scoring=subtract_median"
        ),
    ]


@pytest.fixture(scope="module")
def ensemble(runs: list[Path]) -> tuple[Path, dict[str, Any]]:
    out = runs[0].parent / "ensemble"
    return out, evaluate_ensemble(runs, out, show_progress=False)


def read_scores(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_scores_are_means_of_the_standardized_scores_of_the_members(
    ensemble: tuple[Path, dict[str, Any]], runs: list[Path], root: Path
) -> None:
    rows = read_scores(ensemble[0])
    paths = [root / row["path"] for row in rows]
    scores, maps = torch.zeros(len(paths)), torch.zeros(len(paths), 64, 64)
    for folder in runs:
        model = MoLEFlow.load(folder)
        for i, (path, row) in enumerate(zip(paths, rows, strict=True)):
            name = row["routed_to"]
            record = model.experts[name]
            if record.standardizer is None:
                training = sorted((root / name / "train/good").iterdir())
                patches = model.scorer.score_images(training, name)
                record.standardizer = ScoreStandardizer.from_training(patches, record.postprocessor)
            (scored,) = model.score([path], name)
            scores[i] += scored.score / 3
            shape = scored.anomaly_map.shape
            resized = F.interpolate(scored.anomaly_map[None, None], (64, 64), mode="bilinear", antialias=True)[0, 0]
            maps[i] += (scored.anomaly_map if shape == (64, 64) else resized) / 3
    torch.testing.assert_close(scores, torch.tensor([float(row["image_score"]) for row in rows]))
    loaded = load_detector(ensemble[0])
    torch.testing.assert_close(torch.stack([image.anomaly_map for image in loaded.score(paths)]), maps)


def test_run_folder_is_that_of_a_run(ensemble: tuple[Path, dict[str, Any]], runs: list[Path]) -> None:
    out, metrics = ensemble
    members = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert metrics.keys() == members[0].keys()
    assert json.loads((out / "status.json").read_text())["status"] == "finished"
    for part in ("base", "backbone"):
        assert metrics["parameters"][part] == sum(member["parameters"][part] for member in members)
    assert metrics["training"]["steps"] == sum(member["training"]["steps"] for member in members)
    assert metrics["forgetting"]["pixel_ap"] is None
    assert metrics["task_matrix"]["tasks"] == [["bottle", "screw"]]
    run = read_run(out, "ensemble")
    assert isinstance(run, Run)
    assert run.config["ensemble"][1]["transform.size"] == 96
    assert run_warnings(run) == []
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert evaluate_ensemble(runs, out) == json.loads((out / "metrics.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(UserError, match="another configuration"):
        evaluate_ensemble(runs[:2], out)


def test_loaded_ensemble_reproduces_the_scores(
    ensemble: tuple[Path, dict[str, Any]], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = ensemble
    rows = read_scores(out)
    predictions = list(Predictor(load_detector(out)).stream([root / row["path"] for row in rows]))
    assert [repr(prediction.score) for prediction in predictions] == [row["image_score"] for row in rows]
    assert main(["predict", str(out), str(root / "screw" / "test" / "good")]) == 0
    assert "screw" in capsys.readouterr().out


def test_members_with_overrides_per_category(root: Path, tmp_path: Path) -> None:
    """The single task that is evaluated has several experts, whose overrides may differ."""
    per_category = "+per_category={screw: {epochs: 2, transform: {size: 96}, scoring: {aggregation: max}}}"
    members = [train_member(root, tmp_path / f"run{i}", per_category, "model=whitened", f"seed={i}") for i in range(2)]
    metrics = evaluate_ensemble(members, tmp_path / "ensemble", show_progress=False)
    assert metrics["routing"]["experts"] == ["bottle", "screw"]
    expected = sum(json.loads((member / "metrics.json").read_text())["training"]["steps"] for member in members)
    assert metrics["training"]["steps"] == expected


def test_member_of_a_gpu_run_is_evaluated_on_the_cpu(runs: list[Path], tmp_path: Path) -> None:
    members = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs[:2]]
    for member in members:
        path = member / "config.yaml"
        text = path.read_text()
        assert "accelerator: cpu" in text
        path.write_text(text.replace("accelerator: cpu", "accelerator: cuda"))
    assert evaluate_ensemble(members, tmp_path / "ensemble", show_progress=False)["device"] == "cpu"


def test_runs_that_do_not_match_are_errors(
    runs: list[Path], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_category = train_member(root, tmp_path / "bottle", "dataset.categories=[bottle]")
    cropped = train_member(root, tmp_path / "cropped", "view=paper")
    copy = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"), good=3, defect=2)
    other_root = train_member(copy, tmp_path / "other_root")
    out = ["-o", str(tmp_path / "out")]
    for folder, message in (
        (one_category, "the categories of its experts are"),
        (cropped, "its region of an image is crop to 1.000:1 instead of the whole image"),
        (other_root, "The runs differ in dataset.root"),
        (tmp_path / "nothing", "is not a finished run"),
    ):
        assert main(["ensemble", str(runs[0]), str(folder), *out]) == 1
        assert message in capsys.readouterr().err
    assert main(["ensemble", str(runs[0]), *out]) == 1
    assert "at least two" in capsys.readouterr().err
    assert main(["ensemble", str(one_category), f"{one_category}/../bottle", *out]) == 1
    assert "given twice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ensemble_has_no_model_and_depends_on_its_members(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = train_member(root, tmp_path / "bottle", "dataset.categories=[bottle]")
    out = tmp_path / "ensemble"
    members = [str(member), str(shutil.copytree(member, tmp_path / "copy"))]
    assert main(["ensemble", *members, "-o", str(out)]) == 0
    assert f"Results are in {out}." in capsys.readouterr().out
    for command in (["export", str(out), "--category=bottle"], ["merge-experts", str(tmp_path / "merged"), str(out)]):
        assert main(command) == 1
        assert f"{out} is an ensemble without experts. Give one of its member runs." in capsys.readouterr().err
    with pytest.raises(UserError, match="is an ensemble without a model"):
        evaluate_ensemble([member, out], tmp_path / "nested")
    (member / "model" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="has changed since"):
        load_detector(out)
