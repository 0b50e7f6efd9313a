"""Sweeps from the command line: folders, failures, and a kill in the middle."""

import re
import signal
import time
from pathlib import Path

import pytest

from helpers.processes import Process, Processes
from helpers.trees import write_mvtec_tree
from moleflow.experiment.sweep import swept_keys
from moleflow.runs.identity import folder_name, run_label

SWEEP = (
    "-m", "dataset=folder", "dataset.root=tree", "backbone=resnet18", "backbone.pretrained=false", "backbone.dim=16",
    "transform.size=64", "epochs=1", "batch_size=4", "model.coupling_layers=1", "model.lora_rank=2", "progress=false",
    "trainer=cpu", "logger=csv", "features.cache_dir=cache", "callbacks=minimal",
)  # fmt: skip


def start(processes: Processes, folder: Path, *arguments: str) -> Process:
    """Start a sweep in a folder with the tiny tree."""
    if not (folder / "tree").is_dir():
        write_mvtec_tree(folder / "tree", ["bottle"], train=4, good=1, defect=1)
    return processes.start(*SWEEP, *arguments, log=folder / f"{len(list(folder.glob('*.log')))}.log", cwd=folder)


def swept(process: Process) -> str:
    """Return what a sweep that gets through has printed."""
    assert process.wait(240) == 0, process.output
    return process.output


def times(folder: Path) -> dict[str, int]:
    """Return the time of the last change of every file of a run folder."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def table(output: str) -> list[str]:
    return re.findall(r"^\d+ +finished .*$", output, re.MULTILINE)


def test_a_killed_sweep_goes_on_and_gives_the_same_table(processes: Processes, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    expected = swept(start(processes, whole, "seed=0,1,2"))
    assert len(table(expected)) == 3, expected

    process = start(processes, broken, "seed=0,1,2")
    deadline = time.monotonic() + 240
    while not list(broken.glob("runs/*/*/seed1/status.json")):  # the second job has begun
        assert process.wait(0) is None, process.output
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (first,) = broken.glob("runs/*/*/seed0")
    assert not list(broken.glob("runs/*/*/seed2"))
    before = times(first)
    output = swept(start(processes, broken, "seed=0,1,2"))
    assert times(first) == before
    assert output.count("is finished already") == 1
    assert table(output) == table(expected)
    assert len(list(broken.glob("runs/*/*/seed*/metrics.json"))) == 3


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_failed_job_is_reported_and_stops_no_other(launcher: str, processes: Processes, tmp_path: Path) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    arguments = [f"hydra/launcher={launcher}"] + (["hydra.launcher.n_jobs=2"] if launcher == "joblib" else [])
    process = start(processes, tmp_path, *arguments, "model.adapter=whitning,none")
    assert process.wait() == 1, process.output
    output = process.output
    report = output[output.index("1 of 2 jobs failed") :]
    assert "job 0: " in report
    assert "model.adapter=whitning is unknown" in report
    assert "Traceback" not in output
    assert len(list(tmp_path.glob("runs/default/*/seed0/metrics.json"))) == 1
    assert len(table(output)) == 1


@pytest.mark.parametrize("wrong", ["transform.size=64,10", "objective=image_auroc,pixl_ap"])
def test_a_rejected_job_is_a_row_and_leaves_no_folder(wrong: str, processes: Processes, tmp_path: Path) -> None:
    process = start(processes, tmp_path, wrong)
    assert process.wait() == 1, process.output
    output = process.output
    assert re.search(r"^1 +failed ", output, re.MULTILINE)
    assert "1 of 2 jobs failed" in output
    assert len(table(output)) == 1
    assert "Traceback" not in output
    assert "FileNotFoundError" not in output
    assert len(list(tmp_path.glob("runs/default/*"))) == 1


@pytest.mark.parametrize("swept", ["optimizer.lr=1e-3,1e-4", "dataset.root=tree,other"], ids=["before", "in jobs"])
def test_search_over_a_metric_that_the_data_lacks_is_refused_before_training(
    swept: str, processes: Processes, tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    for name in ("tree", "other"):
        write_mvtec_tree(tmp_path / name, ["bottle"], train=4, good=1, defect=1, masks=False)
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.max_failure_rate=1.0"]
    process = start(processes, tmp_path, *search, swept)
    assert process.wait() == 1, process.output
    assert "objective=pixel_ap cannot be searched: the data set has no masks" in process.output
    assert "Set objective=image_auroc" in process.output
    assert not list(tmp_path.glob("runs/default/*"))


def test_unknown_experiments_of_a_sweep_are_refused_before_the_first_job(processes: Processes, tmp_path: Path) -> None:
    process = start(processes, tmp_path, "+experiment=quickstart,tailw08")
    assert process.wait() == 1
    assert "Did you mean 'tailw0.8'" in process.output
    assert not list(tmp_path.glob("runs/*/*/seed0"))


def test_jobs_that_differ_in_circumstances_only_have_their_own_folders() -> None:
    overrides = ["trainer=cpu", "dataset.root=/a/b", "seed=1"]
    assert run_label(overrides) == "default"
    assert run_label(overrides, ["trainer"]) == "trainer=cpu"
    assert run_label(overrides, ["seed"]) == "default"  # a folder of its own already: that of the run without a sweep
    assert run_label(["dataset.root=/a/b"], ["dataset.root"]) != run_label(["dataset.root=/a_b"], ["dataset.root"])
    assert swept_keys(["trainer=cpu,gpu", "seed=range(3)", "dataset.categories=[a,b]", "+ablation=wo_dia,wo_lora"]) == [
        "trainer", "seed", "ablation"
    ]  # fmt: skip


def test_the_experiment_is_named_once() -> None:
    assert run_label(["+experiment=tailw0.8"]) == "default"  # the folder above is tailw0.8
    assert run_label(["+experiment=tailw0.8", "name=mine"]) == "experiment=tailw0.8,name=mine"
    assert run_label(["+sweep=tail_weight", "loss.tail_weight=0.5"]) == "loss.tail_weight=0.5"


def test_long_names_stay_apart() -> None:
    long = [f"model.key{i}=1" for i in range(30)]
    assert len(folder_name(long)) < 130
    assert len(folder_name(["name=" + "가" * 100]).encode()) < 130
    assert folder_name([*long, "a=1"]) != folder_name([*long, "a=2"])
