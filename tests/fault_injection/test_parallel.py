"""Tests of experts that are trained as jobs of a launcher: the same run to the last bit, even if processes die."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from fault_injection import scenarios
from fault_injection.harness import Harness, Job
from fault_injection.kill_points import kill_in_task
from helpers.processes import Process, Processes
from helpers.program import TINY, run_program
from moleflow.training.task_result import StoredTaskResult
from moleflow.utils.errors import UserError

PARALLEL = "scenario.parallel=true"
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
FAIL_IN_TASK_2 = """
from moleflow.training import continual_trainer
from moleflow.utils.errors import UserError
train_task = continual_trainer.train_task
def train_task_or_fail(context, task, make_trainer):
    if task.index == 1:
        raise UserError(f"{context.task_label(task)}: the loss is nan.")
    return train_task(context, task, make_trainer)
continual_trainer.train_task = train_task_or_fail
"""


@pytest.fixture(scope="module")
def three_tasks(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """Return a harness with three tasks, which the reference run trained one after another."""
    return Harness(tmp_path_factory.mktemp("parallel"), processes, ("bottle", "cable", "screw"))


@pytest.fixture(scope="module")
def killed(three_tasks: Harness) -> Job:
    """Return a job that was killed when the second task was trained and the third was at its second of three epochs."""
    job = three_tasks.job("killed", PARALLEL)
    assert three_tasks.start(job, setup=kill_in_task(3)).wait() == -signal.SIGKILL
    state = job.folder / "state"
    assert StoredTaskResult(state, 1).is_complete()
    assert not StoredTaskResult(state, 2).is_complete()
    assert [path.name[:16] for path in state.glob("task2*.ckpt")] == ["task2-epoch00001"]
    return job


def copy_with_overrides(three_tasks: Harness, killed: Job, name: str, *overrides: str) -> Job:
    """Return a new job with a copy of the killed job's run folder and its own overrides."""
    shutil.copytree(killed.folder, three_tasks.base / name / "run")
    return three_tasks.job(name, *overrides)


def test_jobs_of_the_basic_launcher_have_the_result_of_the_sequence(three_tasks: Harness) -> None:
    job = three_tasks.job("basic", PARALLEL)
    process = three_tasks.resume(job)
    assert "Training 2 tasks as jobs of hydra/launcher=basic: one after another" in process.output
    assert {path.name for path in (job.folder / "state").iterdir()} == {"progress.json"}
    log_file = "logs/version_0/metrics.csv"
    assert (job.folder / log_file).read_bytes() == (three_tasks.reference.folder / log_file).read_bytes()
    log = (job.folder / "train.log").read_text()
    assert "task 3/3 screw is trained" in log
    assert "Results in" in log  # the run restores its own logging after the launcher has changed it


def test_finished_tasks_of_a_killed_run_are_not_trained_again(three_tasks: Harness, killed: Job) -> None:
    job = copy_with_overrides(three_tasks, killed, "parallel", PARALLEL)
    process = three_tasks.resume(job)
    assert "Training 1 tasks as jobs" in process.output
    assert "task 2/3 cable: " not in process.output
    assert "task 3/3 screw:   0%" not in process.output  # resumed at its last epoch


def test_parallel_run_can_be_resumed_in_sequence(three_tasks: Harness, killed: Job) -> None:
    process = three_tasks.resume(copy_with_overrides(three_tasks, killed, "sequence"))
    assert "as jobs" not in process.output
    assert "task 2/3 cable: " not in process.output


def test_sequential_run_can_be_resumed_in_parallel(three_tasks: Harness) -> None:
    job = three_tasks.job("jobs", PARALLEL)
    process = three_tasks.start(job, "scenario.parallel=false", setup=kill_in_task(3))
    assert process.wait() == -signal.SIGKILL
    process = three_tasks.resume(job)
    assert "Training 1 tasks as jobs" in process.output
    # Only the killed process shows it: the job is resumed at the task's last epoch.
    assert process.output.count("task 3/3 screw:   0%") == 1


def test_damaged_expert_of_a_job_is_trained_again(three_tasks: Harness, killed: Job) -> None:
    job = copy_with_overrides(three_tasks, killed, "damaged", PARALLEL)
    damaged = scenarios.damage(job.folder, "state/task1/experts/*.safetensors", "bit flipped", random.Random(0))
    process = three_tasks.resume(job)
    assert f"{damaged} is damaged" in process.output
    assert "Training 2 tasks as jobs" in process.output


def test_failed_job_is_named_and_the_results_of_the_others_remain(three_tasks: Harness) -> None:
    job = three_tasks.job("failed", PARALLEL)
    process = three_tasks.start(job, setup=FAIL_IN_TASK_2)
    assert process.wait() == 1, process.output
    assert "Traceback" not in process.output
    assert "1 of 2 jobs failed" in process.output
    assert "  task 2/3 cable: the loss is nan." in process.output
    assert job.status == "failed"
    assert StoredTaskResult(job.folder / "state", 2).is_complete()
    assert "Training 1 tasks as jobs" in three_tasks.resume(job).output


def test_forced_resume_uses_no_stored_result_of_the_former_configuration(three_tasks: Harness, killed: Job) -> None:
    job = copy_with_overrides(three_tasks, killed, "forced", PARALLEL, "loss.tail_weight=0.1", "resume=force")
    process = three_tasks.finish(job)
    assert "Training 2 tasks as jobs" in process.output


def worker_pids(process: Process) -> list[int]:
    """Return the ids of the joblib launcher's worker processes of a run."""
    pids = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
            if parent == process.pid and b"LokyProcess" in (status.parent / "cmdline").read_bytes():
                pids.append(int(status.parent.name))
        except OSError:  # the process has ended
            continue
    return pids


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_run_with_a_killed_joblib_worker_ends_with_the_result_of_the_sequence(three_tasks: Harness) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    job = three_tasks.job("joblib", PARALLEL, *JOBLIB)
    process = three_tasks.start(job)
    deadline = time.monotonic() + 600
    while not list((job.folder / "state").glob("task*/.lock")):  # until a worker has started a task
        assert time.monotonic() < deadline, process.output
        time.sleep(0.005)
    os.kill(worker_pids(process)[0], signal.SIGKILL)
    assert process.wait() == 1, process.output
    assert "Traceback" not in process.output
    assert "hydra/launcher=joblib ended before its jobs did" in process.output
    assert "Run the same command again to resume" in process.output.replace("\n", " ")
    # Resumed without joblib, whose workers would import everything again; benchmarks/parallel.py runs them to the end.
    three_tasks.resume(three_tasks.job("joblib", PARALLEL))


def test_task_is_locked_by_one_process(tmp_path: Path) -> None:
    stored = StoredTaskResult(tmp_path, 3)
    locked, begin = os.pipe()
    pid = os.fork()
    if not pid:
        with stored.locked():
            os.write(begin, b"x")
            time.sleep(0.3)
            (tmp_path / "marker").write_text("written by the first process")
        os._exit(0)
    os.read(locked, 1)
    assert not (tmp_path / "marker").exists()
    with stored.locked():
        assert (tmp_path / "marker").exists()
    os.waitpid(pid, 0)
    os.close(locked)
    os.close(begin)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.base=context", "model.base=context each task depends on the previous ones"),
        ("model.base=trainable", "model.base=trainable each task depends"),
        ("model.expert_start=nearest", "model.expert_start=nearest each task depends"),
        ("trainer.devices=2", r"trainer.devices=2 \(trainer=ddp\) distributes a task"),
    ],
)
def test_parallel_training_of_dependent_tasks_is_an_error(
    three_tasks: Harness, tmp_path: Path, change: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_program(
            ["dataset=folder", f"dataset.root={three_tasks.tree}", *TINY, "scenario.parallel=true", change],
            tmp_path / "run",
        )
    assert not (tmp_path / "run" / "model").exists()
