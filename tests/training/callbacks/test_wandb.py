"""Tests of W&B in offline mode: content of the run's log, and its exit code."""

import json
import signal
import time
from pathlib import Path

import pytest

from helpers.processes import Processes
from helpers.program import TINY
from helpers.trees import write_mvtec_tree
from helpers.wandb_log import read_records, to_dict

pytestmark = pytest.mark.slow


def command(tree: Path, run: Path, *overrides: str) -> list[str]:
    data = ("dataset=folder", f"dataset.root={tree}")
    return [*TINY, *data, f"hydra.run.dir={run}", "logger=wandb", *overrides]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def finished(processes: Processes, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    process = processes.run(*command(tree, run, "callbacks=diagnostics", "validation=1"))
    assert process.returncode == 0, process.stderr
    return run


def test_all_values_are_logged_at_a_step_that_never_decreases(finished: Path) -> None:
    history = [to_dict(r.history.item) for r in read_records(finished) if r.WhichOneof("record_type") == "history"]
    steps = [row["trainer/global_step"] for row in history if "trainer/global_step" in row]
    assert steps == sorted(steps)
    assert steps[-1] == json.loads((finished / "metrics.json").read_text())["training"]["steps"]
    keys = {key for row in history for key in row}
    names = ("loss", "nll_mean", "nll_tail", "logdet_penalty", "grad_norm", "skipped_steps", "lr", "task")
    assert {f"train/{name}" for name in names} <= keys
    assert {"task/pixel_ap", "task/image_auroc", "task/routing_accuracy"} <= keys
    assert {"val/nll", "val/nll_counted", "diagnostics/logdet_sd", "diagnostics/router_minimum_margin"} <= keys
    assert any(key.startswith("tables/task_matrix") for key in keys)
    assert any(key.startswith("tables/categories") for key in keys)
    assert any(key.startswith("tables/routing") for key in keys)
    assert any(key.startswith("pictures/examples_bottle") for key in keys)
    assert sum("task/number" in row for row in history) == 2


def test_summary_equals_the_metrics_file(finished: Path) -> None:
    summary: dict[str, object] = {}
    for record in read_records(finished):
        if record.WhichOneof("record_type") == "summary":
            summary |= to_dict(record.summary.update)
    metrics = json.loads((finished / "metrics.json").read_text())
    for name in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro", "routing_accuracy"):
        assert summary[name] == pytest.approx(metrics[name], rel=1e-12)


def test_config_group_tags_and_job_type(finished: Path) -> None:
    config: dict[str, object] = {}
    for record in read_records(finished):
        if record.WhichOneof("record_type") == "run":
            assert record.run.run_group == "default"
            assert record.run.job_type == "seed0"
            assert "1-1" in record.run.tags
            config |= to_dict(record.run.config.update)
        if record.WhichOneof("record_type") == "config":
            config |= to_dict(record.config.update)
    assert {"backbone", "model", "loss", "optimizer", "scenario", "seed", "epochs"} <= {
        key.split(".")[0] for key in config
    }


def exit_codes(run: Path) -> list[int]:
    return [r.exit.exit_code for r in read_records(run) if r.WhichOneof("record_type") == "exit"]


def test_finished_run_has_exit_code_0(finished: Path) -> None:
    assert exit_codes(finished) == [0]


def test_failed_run_has_exit_code_1(processes: Processes, tree: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert processes.run(*command(tree, run, "optimizer.lr=1e30")).returncode == 1
    assert exit_codes(run) == [1]


def test_killed_run_has_no_exit_code(processes: Processes, tree: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = processes.start(*command(tree, run, "epochs=100000"), log=tmp_path / "log")
    deadline = time.monotonic() + 60
    while not list((run / "state").glob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert list((run / "state").glob("*.ckpt"))
    time.sleep(1)
    assert 0 not in exit_codes(run)
