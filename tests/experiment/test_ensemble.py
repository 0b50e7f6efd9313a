"""Several runs measured as one: on one scale, at one size, and as a run folder like any other."""

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from helpers.processes import Processes
from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.cli.ensemble import main
from moleflow.detector.predictor import Predictor
from moleflow.experiment.ensemble import ensemble
from moleflow.inference.ensemble import load_model
from moleflow.report.sections.warnings import run_warnings
from moleflow.runs.reader import Run, read_run
from moleflow.scoring.calibration import ScoreStandardizer
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), good=2, defect=2)


def member(root: Path, folder: Path, *more: str) -> Path:
    run_program(["dataset=folder", f"dataset.root={root}", *TINY, "epochs=1", "model=gaussian", *more], folder)
    return folder


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A Gaussian at 64 pixels, a flow at 96 on another layer, and a memory of standardised scores."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        member(root, folder / "small"),
        member(root, folder / "large", "model=whitened", "transform.size=96", "backbone.layers=[layer1,layer2]"),
        member(root, folder / "memory", "model=whitened_memory", "model.memory_size=20", "scoring=subtract_median"),
    ]


@pytest.fixture(scope="module")
def joined(runs: list[Path]) -> tuple[Path, dict[str, Any]]:
    out = runs[0].parent / "joined"
    return out, ensemble(runs, out, show_progress=False)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_is_the_mean_of_members_on_the_scale_of_their_training_scores(
    joined: tuple[Path, dict[str, Any]], runs: list[Path], root: Path
) -> None:
    paths = [root / row["path"] for row in rows(joined[0])]
    total, maps = torch.zeros(len(paths)), torch.zeros(len(paths), 64, 64)
    for folder in runs:
        model = MoLEFlow.load(folder)
        for i, (path, row) in enumerate(zip(paths, rows(joined[0]), strict=True)):
            name = row["routed_to"]
            if name not in model.scales:
                learned = sorted((root / name / "train/good").iterdir())
                model.scales[name] = ScoreStandardizer.from_training(model.score_images(learned, name), model.scoring)
            (scored,) = model.score([path], name)
            total[i] += scored.score / 3
            shape = scored.anomaly_map.shape
            resized = F.interpolate(scored.anomaly_map[None, None], (64, 64), mode="bilinear", antialias=True)[0, 0]
            maps[i] += (scored.anomaly_map if shape == (64, 64) else resized) / 3
    torch.testing.assert_close(total, torch.tensor([float(row["image_score"]) for row in rows(joined[0])]))
    loaded = load_model(joined[0])
    torch.testing.assert_close(torch.stack([one.anomaly_map for one in loaded.score(paths)]), maps)


def test_its_folder_is_a_run_folder(joined: tuple[Path, dict[str, Any]], runs: list[Path]) -> None:
    out, metrics = joined
    alone = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert metrics.keys() == alone[0].keys()
    assert json.loads((out / "status.json").read_text())["status"] == "finished"
    assert metrics["parameters"]["backbone"] == sum(one["parameters"]["backbone"] for one in alone)
    assert metrics["training"]["steps"] == sum(one["training"]["steps"] for one in alone)
    assert metrics["forgetting"]["pixel_ap"] is None
    assert metrics["task_matrix"]["tasks"] == [["bottle", "screw"]]
    read = read_run(out, "joined")
    assert isinstance(read, Run)
    assert read.config["ensemble"][1]["transform.size"] == 96
    assert run_warnings(read) == []
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert ensemble(runs, out) == json.loads((out / "metrics.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(UserError, match="another configuration"):
        ensemble(runs[:2], out)


def test_pictures_are_judged_by_all_members(
    joined: tuple[Path, dict[str, Any]], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = joined
    judged = list(Predictor(load_model(out)).stream([root / row["path"] for row in rows(out)]))
    assert [repr(one.score) for one in judged] == [row["image_score"] for row in rows(out)]
    assert main([str(out), str(root / "screw" / "test" / "good")]) == 0
    assert "screw" in capsys.readouterr().out


def test_what_does_not_go_together_is_told(
    runs: list[Path], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = member(root, tmp_path / "bottle", "dataset.categories=[bottle]")
    whole = member(root, tmp_path / "whole", "view=full")
    copy = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"), good=2, defect=2)
    elsewhere = member(copy, tmp_path / "elsewhere")
    for folder, message in (
        (other, "its experts hold"),
        (whole, "sees another part of an image (squash instead of crop"),
        (elsewhere, "differ in dataset.root"),
        (tmp_path / "nothing", "is not a finished run"),
    ):
        assert main([str(runs[0]), str(folder), "-o", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    assert main([str(runs[0]), "-o", str(tmp_path / "out")]) == 1
    assert "at least two" in capsys.readouterr().err
    assert main([str(other), f"{other}/../bottle", "-o", str(tmp_path / "out")]) == 1
    assert "named twice" in capsys.readouterr().err
    ensemble([other, shutil.copytree(other, tmp_path / "copy")], tmp_path / "twice", show_progress=False)
    for command in (["moleflow.cli.export", "--category=bottle"], ["moleflow.cli.merge", str(tmp_path / "out")]):
        module = import_module(command[0])
        assert module.main([*command[1:], str(tmp_path / "twice")]) == 1
        assert "is an ensemble and has no experts of its own" in capsys.readouterr().err
    with pytest.raises(UserError, match="no run with a model of its own"):
        ensemble([other, tmp_path / "twice"], tmp_path / "nested")
    (other / "model" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="has changed since"):
        load_model(tmp_path / "twice")


def test_a_sweep_can_end_with_the_ensemble_of_its_jobs(processes: Processes, root: Path, tmp_path: Path) -> None:
    command = ["-m", "dataset=folder", f"dataset.root={root}", *TINY, "model=gaussian", "transform.size=64,96"]
    done = processes.run(*command, "hydra.callbacks.sweep.ensemble=true", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All together" in done.stdout
    (out,) = (tmp_path / "runs" / "ensemble").iterdir()
    assert json.loads((out / "status.json").read_text())["status"] == "finished"
