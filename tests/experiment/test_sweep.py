"""Tests of sweeps from the command line: folders, failed jobs, and a killed sweep."""

import re
import signal
import time
from pathlib import Path

import pytest

from helpers.processes import Process, Processes
from helpers.trees import write_mvtec_tree
from moleflow.experiment.sweep import swept_keys
from moleflow.runs.searches import SearchRecord
from moleflow.utils.io import read_json

SWEEP = (
    "-m", "dataset=folder", "dataset.root=tree", "backbone=resnet18", "backbone.name=test_resnet",
    "backbone.pretrained=false", "backbone.dim=16", "transform.size=64", "epochs=1", "batch_size=4",
    "model.coupling_layers=1", "model.lora_rank=2", "progress=false", "trainer=cpu", "logger=csv",
    "features.cache_dir=cache", "callbacks=minimal",
)  # fmt: skip


def start(processes: Processes, folder: Path, *arguments: str) -> Process:
    """Start a sweep in a folder, on a small tree below it."""
    if not (folder / "tree").is_dir():
        write_mvtec_tree(folder / "tree", ["bottle"], train=4, good=1, defect=1)
    return processes.start(*SWEEP, *arguments, log=folder / f"{len(list(folder.glob('*.log')))}.log", cwd=folder)


def wait_for_output(process: Process) -> str:
    """Wait for the success of a sweep and return its output."""
    assert process.wait(240) == 0, process.output
    return process.output


def modification_times(folder: Path) -> dict[str, int]:
    """Return the time of the last modification of every file below a folder."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def finished_rows(output: str) -> list[str]:
    """Return the rows of finished jobs in the table of a sweep."""
    return re.findall(r"^\d+ +finished .*$", output, re.MULTILINE)


def test_resumed_sweep_has_the_same_table(processes: Processes, tmp_path: Path) -> None:
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    for folder in (reference, killed):
        folder.mkdir()
    expected = wait_for_output(start(processes, reference, "seed=0,1,2"))
    assert len(finished_rows(expected)) == 3, expected

    process = start(processes, killed, "seed=0,1,2")
    deadline = time.monotonic() + 240
    while not list(killed.glob("runs/*/*/seed1/status.json")):  # the second job has started
        assert process.wait(0) is None, process.output
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (first,) = killed.glob("runs/*/*/seed0")
    assert not list(killed.glob("runs/*/*/seed2"))
    before = modification_times(first)
    output = wait_for_output(start(processes, killed, "seed=0,1,2"))
    assert modification_times(first) == before
    assert output.count("is finished already") == 1
    assert finished_rows(output) == finished_rows(expected)
    assert len(list(killed.glob("runs/*/*/seed*/metrics.json"))) == 3


@pytest.mark.parametrize(
    ("launcher", "swept", "reason"),
    [
        ("basic", "model.adapter=whitning,none", "model.adapter=whitning is unknown"),
        # These fail before torch is imported, which takes most of the time of a new process.
        ("joblib", "optimizer.lr=-1,1e-3", "optimizer.lr=-1 must be greater than 0"),
        ("submitit_local", "optimizer.lr=-1,1e-3", "optimizer.lr=-1 must be greater than 0"),
    ],
)
def test_failed_job_is_reported_and_the_others_finish(
    launcher: str, swept: str, reason: str, processes: Processes, tmp_path: Path
) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    arguments = [f"hydra/launcher={launcher}"] + (["hydra.launcher.n_jobs=2"] if launcher == "joblib" else [])
    process = start(processes, tmp_path, *arguments, swept)
    assert process.wait(240) == 1, process.output
    output = process.output
    report = output[output.index("1 of 2 jobs failed") :]
    assert "job 0: " in report
    assert reason in report
    assert "Traceback" not in output
    assert len(list(tmp_path.glob("runs/default/*/seed0/metrics.json"))) == 1
    assert len(finished_rows(output)) == 1


@pytest.mark.parametrize("wrong", ["transform.size=64,10", "objective=image_auroc,pixl_ap"])
def test_a_rejected_job_is_a_row_and_leaves_no_folder(wrong: str, processes: Processes, tmp_path: Path) -> None:
    process = start(processes, tmp_path, wrong)
    assert process.wait() == 1, process.output
    output = process.output
    assert re.search(r"^1 +failed ", output, re.MULTILINE)
    assert "1 of 2 jobs failed" in output
    assert len(finished_rows(output)) == 1
    assert "Traceback" not in output
    assert "FileNotFoundError" not in output
    assert len(list(tmp_path.glob("runs/default/*"))) == 1


SEARCH = (
    "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra/sweeper/pruner=median",
    "hydra.sweeper.pruner.n_startup_trials=1", "model=gaussian", "scoring.sigma=0.5,20,30,40",
)  # fmt: skip


def test_killed_search_is_resumed_and_loses_no_trial(processes: Processes, tmp_path: Path) -> None:
    pytest.importorskip("optuna", minversion="4.0")
    write_mvtec_tree(tmp_path / "tree", ["bottle", "screw"], train=4, good=1, defect=1)
    process = start(processes, tmp_path, *SEARCH)
    deadline = time.monotonic() + 240
    while len(list(tmp_path.glob("runs/default/*/seed0/status.json"))) < 2:  # the second trial has started
        assert process.wait(0) is None, process.output
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (first,) = (path.parent for path in tmp_path.glob("runs/default/*/seed0/metrics.json"))
    before = modification_times(first)
    output = wait_for_output(start(processes, tmp_path, *SEARCH))
    assert modification_times(first) == before
    (record,) = map(SearchRecord.read, tmp_path.glob("runs/searches/*.json"))
    assert [trial.number for trial in record.trials] == [0, 1, 2, 3]
    assert sorted(trial.params["scoring.sigma"] for trial in record.trials) == ["0.5", "20", "30", "40"]
    states = [trial.state for trial in record.trials]
    assert set(states) == {"complete", "pruned"}
    assert len(re.findall(r"^\d+ +pruned ", output, re.MULTILINE)) == states.count("pruned")
    for trial in record.trials:
        folder = tmp_path / "runs" / trial.folder
        assert (folder / "metrics.json").is_file() == (trial.state == "complete")
        assert list(trial.tasks) == ["1", "2"][: 1 if trial.state == "pruned" else 2]
        assert read_json(folder / "status.json")["status"] == {"complete": "finished"}.get(trial.state, trial.state)


@pytest.mark.parametrize("swept", ["optimizer.lr=1e-3,1e-4", "dataset.root=tree,other"], ids=["before", "in jobs"])
def test_search_over_a_metric_that_the_data_lacks_is_refused_before_training(
    swept: str, processes: Processes, tmp_path: Path
) -> None:
    pytest.importorskip("optuna", minversion="4.0")
    for name in ("tree", "other"):
        write_mvtec_tree(tmp_path / name, ["bottle"], train=4, good=1, defect=1, masks=False)
    process = start(processes, tmp_path, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", swept)
    assert process.wait() == 1, process.output
    assert "objective=pixel_ap cannot be searched: the data set has no masks" in process.output
    assert "Set objective=image_auroc" in process.output
    assert "Traceback" not in process.output
    assert ("2 of 2 jobs failed" in process.output) == swept.startswith("dataset")
    assert not [path for path in tmp_path.rglob("sweeps/*") if path.is_dir()]
    assert not list(tmp_path.glob("runs/default/*"))


def test_unknown_experiment_is_an_error_before_the_first_job(processes: Processes, tmp_path: Path) -> None:
    process = start(processes, tmp_path, "+experiment=quickstart,tailw08")
    assert process.wait(240) == 1, process.output
    assert "Did you mean 'tailw0.8'" in process.output
    assert not list(tmp_path.glob("runs/*/*/seed0"))


def test_swept_keys_of_a_command() -> None:
    overrides = ["trainer=cpu,gpu", "seed=range(3)", "dataset.categories=[a,b]", "+ablation=wo_dia,wo_lora"]
    assert swept_keys(overrides) == ["trainer", "seed", "ablation"]
