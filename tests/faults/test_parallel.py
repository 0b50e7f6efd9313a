"""Experts learned as jobs of a launcher: the same run to the last bit, whatever dies on the way."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from faults import scenarios
from faults.dying import die_in_task
from faults.harness import Bench, Job
from helpers.processes import Process, Processes
from helpers.program import TINY, run_program
from moleflow.errors import UserError
from moleflow.training.learned import LearnedTask

PARALLEL = "scenario.parallel=true"
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
FAIL_IN_TASK_2 = """
from moleflow.errors import UserError
from moleflow.training import parallel
learn = parallel.learn
def or_fail(run, task):
    if task.index == 1:
        raise UserError(f"{run.title(task)}: the loss is nan.")
    return learn(run, task)
parallel.learn = or_fail
"""


@pytest.fixture(scope="module")
def three(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return a bench of three tasks, whose undisturbed run learned them one after another."""
    return Bench(tmp_path_factory.mktemp("parallel"), processes, ("bottle", "cable", "screw"))


@pytest.fixture(scope="module")
def half(three: Bench) -> Job:
    """Return a job that was killed when the second task was learned and the third at its second epoch of three."""
    job = three.job("half", PARALLEL)
    assert three.start(job, setup=die_in_task(3)).wait() == -signal.SIGKILL
    state = job.folder / "state"
    assert LearnedTask(state, 1).is_whole()
    assert not LearnedTask(state, 2).is_whole()
    assert [path.name[:16] for path in state.glob("task2*.ckpt")] == ["task2-epoch00001"]
    return job


def again(three: Bench, half: Job, name: str, *overrides: str) -> Job:
    """Return a copy of the half-done job under other overrides."""
    shutil.copytree(half.folder, three.base / name / "run")
    return three.job(name, *overrides)


def test_jobs_of_the_basic_launcher_are_the_sequence(three: Bench) -> None:
    job = three.job("basic", PARALLEL)
    process = three.resume(job)
    assert "Learning 2 tasks as jobs of hydra/launcher=basic: one after another" in process.output
    assert {path.name for path in (job.folder / "state").iterdir()} == {"progress.json"}
    logged = "logs/version_0/metrics.csv"
    assert (job.folder / logged).read_bytes() == (three.reference.folder / logged).read_bytes()
    log = (job.folder / "train.log").read_text()
    assert "task 3/3 screw is learned" in log
    assert "results in" in log  # launchers change the logging; afterwards it is the run's own again


def test_what_a_killed_run_has_learned_is_not_learned_again(three: Bench, half: Job) -> None:
    job = again(three, half, "on", PARALLEL)
    process = three.resume(job)
    assert "Learning 1 tasks as jobs" in process.output
    assert "task 2/3 cable: " not in process.output
    assert "task 3/3 screw:   0%" not in process.output  # it goes on at its last epoch


def test_a_run_may_go_on_in_sequence(three: Bench, half: Job) -> None:
    process = three.resume(again(three, half, "sequence"))
    assert "as jobs" not in process.output
    assert "task 2/3 cable: " not in process.output


def test_a_run_in_sequence_may_go_on_in_jobs(three: Bench) -> None:
    job = three.job("jobs", PARALLEL)
    assert three.start(job, "scenario.parallel=false", setup=die_in_task(3)).wait() == -signal.SIGKILL
    process = three.resume(job)
    assert "Learning 1 tasks as jobs" in process.output
    assert process.output.count("task 3/3 screw:   0%") == 1  # the killed one's: the job goes on at its last epoch


def test_a_damaged_expert_of_a_job_is_learned_again(three: Bench, half: Job) -> None:
    job = again(three, half, "damaged", PARALLEL)
    damaged = scenarios.damage(job.folder, "state/task1/experts/*.safetensors", "bit flipped", random.Random(0))
    process = three.resume(job)
    assert f"{damaged} is damaged" in process.output
    assert "Learning 2 tasks as jobs" in process.output


def test_a_failed_job_is_named_and_the_others_are_kept(three: Bench) -> None:
    job = three.job("failed", PARALLEL)
    process = three.start(job, setup=FAIL_IN_TASK_2)
    assert process.wait() == 1, process.output
    assert "Traceback" not in process.output
    assert "1 of 2 jobs failed" in process.output
    assert "  task 2/3 cable: the loss is nan." in process.output
    assert job.status == "failed"
    assert LearnedTask(job.folder / "state", 2).is_whole()
    assert "Learning 1 tasks as jobs" in three.resume(job).output


def test_forced_on_under_another_configuration_nothing_of_the_old_one_is_joined(three: Bench, half: Job) -> None:
    job = again(three, half, "forced", PARALLEL, "loss.tail_weight=0.1", "resume=force")
    process = three.finish(job)
    assert "Learning 2 tasks as jobs" in process.output


def workers(process: Process) -> list[int]:
    """Return the processes of the joblib launcher below a run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
            if parent == process.pid and b"LokyProcess" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_joblibs_processes_give_the_sequence_and_one_may_be_killed(three: Bench) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    job = three.job("joblib", PARALLEL, *JOBLIB)
    process = three.start(job)
    deadline = time.monotonic() + 120
    while not list((job.folder / "state").glob("task*/.lock")):  # a worker has begun
        assert time.monotonic() < deadline, process.output
        time.sleep(0.005)
    os.kill(workers(process)[0], signal.SIGKILL)
    assert process.wait() == 1, process.output
    assert "Traceback" not in process.output
    assert "hydra/launcher=joblib ended before its jobs did" in process.output
    assert "the same command goes on from there" in process.output
    three.resume(job)


def test_a_task_has_one_owner(tmp_path: Path) -> None:
    place = LearnedTask(tmp_path, 3)
    locked, begin = os.pipe()
    pid = os.fork()
    if not pid:
        with place.owned():
            os.write(begin, b"x")
            time.sleep(0.3)
            (tmp_path / "left").write_text("by the first")
        os._exit(0)
    os.read(locked, 1)
    assert not (tmp_path / "left").exists()
    with place.owned():
        assert (tmp_path / "left").exists()
    os.waitpid(pid, 0)
    os.close(locked)
    os.close(begin)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.base=context", "model.base=context each needs the ones before"),
        ("model.base=trainable", "model.base=trainable each needs"),
        ("model.expert_start=nearest", "model.expert_start=nearest each needs"),
        ("trainer.devices=2", r"trainer.devices=2 \(trainer=ddp\) shares one task"),
    ],
)
def test_tasks_that_depend_on_one_another_are_refused(three: Bench, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_program(
            ["dataset=folder", f"dataset.root={three.tree}", *TINY, "scenario.parallel=true", change], tmp_path / "run"
        )
    assert not (tmp_path / "run" / "model").exists()
