"""Runs of the real program on a tiny tree, as processes that tests may kill, and what their folders say afterwards."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.server import ROOT
from helpers.trees import write_mvtec_tree

TINY = (
    "dataset=folder", "backbone=resnet18", "backbone.pretrained=false", "backbone.dim=32", "transform.size=64",
    "epochs=3", "batch_size=2", "model.coupling_layers=2", "model.lora_rank=4", "trainer=cpu",
)  # fmt: skip
"""The smallest run that has everything: three epochs, two coupling blocks, features of an untrained network."""
# The command is part of the metrics, and every test here runs in its own folder.
DATES = ("seconds", "started", "finished", "memory", "overrides")


class WrongResultError(AssertionError):
    """A run ended with another result: the one thing that must never be."""


@dataclass(frozen=True)
class Process:
    """A training process that was started."""

    servers: "Processes"
    pid: int
    log: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> int | None:
        """Return the exit status; negative for a signal, None if it still runs after that time."""
        exit_status: int | None = self.servers.ask({"wait": self.pid, "seconds": seconds})
        return exit_status

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        """Return once the output matches.

        Raises:
            TimeoutError: If it does not in time.
        """
        end = time.monotonic() + seconds
        while not re.search(pattern, self.output):
            if time.monotonic() > end:
                raise TimeoutError(f"{pattern!r} did not appear in: {self.output[-2000:]}")
            time.sleep(0.005)

    @property
    def output(self) -> str:
        """Everything that it and its predecessors on the same log printed."""
        return self.log.read_text(errors="replace") if self.log.is_file() else ""

    @property
    def phase(self) -> str:
        """What the last progress bar was about: start, features, task, evaluate or oracle."""
        found = re.findall(r"(features|task|evaluate|oracle)(?: \d+/\d+[^:\r\n]*)?: +\d+%", self.output)
        return found[-1] if found else "start"


class Processes:
    """A server of training processes."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}",
            "WANDB_MODE": "offline",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "faults.server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        assert self._server.stdout is not None
        assert json.loads(self._server.stdout.readline()) == "ready"

    def ask(self, request: dict[str, Any]) -> Any:
        """Send one request to the server and return its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    @staticmethod
    def log_of(job: "Job") -> Path:
        """Return the file that a job's processes print to; not where the job's disk may be full."""
        return job.folder.parent.with_name(f"{job.folder.parent.name}.log")

    def start(
        self, job: "Job", *overrides: str, die_at: int = 0, within: Path | None = None, setup: str = ""
    ) -> Process:
        """Start a job.

        Args:
            job: What to run.
            overrides: Hydra overrides on top of the job's.
            die_at: Kill itself at this operation on files below ``within``; 0 lives.
            within: A folder; that of the job by default.
            setup: Python that the process executes first.
        """
        log = self.log_of(job)
        arguments = [*job.arguments, *overrides]
        folder = str(within or job.folder)
        run = {"arguments": arguments, "log": str(log), "die_at": die_at, "folder": folder, "setup": setup}
        return Process(self, self.ask({"run": run}), log)

    def run(self, job: "Job", *overrides: str, **how: Any) -> Process:
        """Start a job, wait for its end, and demand success."""
        process = self.start(job, *overrides, **how)
        status = process.wait()
        assert status == 0, f"exit status {status}: {process.output[-3000:]}"
        return process

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


@dataclass(frozen=True)
class Job:
    """One run on one tree in one folder.

    Attributes:
        tree: The data set's root.
        folder: The run folder.
        cache: The feature cache.
        extra: Overrides.
    """

    tree: Path
    folder: Path
    cache: Path
    extra: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        places = {"dataset.root": self.tree, "hydra.run.dir": self.folder, "features.cache_dir": self.cache}
        return [*TINY, *(f"{key}={value}" for key, value in places.items()), *self.extra]

    @property
    def metrics(self) -> dict[str, Any]:
        """``metrics.json`` without what tells the time."""
        content = json.loads((self.folder / "metrics.json").read_text())
        return {key: value for key, value in content.items() if key not in DATES}

    @property
    def status(self) -> str:
        """What ``status.json`` says."""
        return str(json.loads((self.folder / "status.json").read_text())["status"])

    def outcome(self) -> dict[str, Any]:
        """Return all that a run must repeat to the last bit: metrics, scores and every file of the model."""
        model = {path.name: path.read_bytes() for path in sorted((self.folder / "model").rglob("*")) if path.is_file()}
        return {"metrics": self.metrics, "scores": (self.folder / "scores.csv").read_bytes(), "model": model}


_DIE = """
import os, signal
from moleflow.training.checkpoints import TaskCheckpoints
add = TaskCheckpoints.add
def then_die(self, epoch, write):
    add(self, epoch, write)
    if (self.task, epoch) == (TASK, 1):
        os.kill(os.getpid(), signal.SIGKILL)
TaskCheckpoints.add = then_die
"""


def die_in_task(number: int) -> str:
    """Return the setup of a process that is killed after the second epoch of a task, the first being number 1."""
    return _DIE.replace("TASK", str(number - 1))


class Bench:
    """A place for experiments: a tree of some categories, and the run on it that nothing happened to.

    Args:
        base: An empty folder.
        categories: Those of the tree.
    """

    def __init__(self, base: Path, categories: Sequence[str] = ("bottle", "screw")) -> None:
        self.base = base
        self.tree = write_mvtec_tree(base / "tree", categories)
        self.processes = Processes()
        self.reference = self.job("reference")
        self.duration = -time.monotonic()
        try:
            self.processes.run(self.reference)
        except BaseException:
            self.processes.close()
            raise
        self.duration += time.monotonic()
        self.expected = self.reference.outcome()
        self._half: Job | None = None

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.close()

    def job(self, name: str, *extra: str, own_cache: bool = False) -> Job:
        """Return a job in a new folder of this name; it shares the reference's features unless told otherwise."""
        place = self.base / name
        return Job(self.tree, place / "run", place / "cache" if own_cache else self.base / "cache", extra)

    def half(self, name: str) -> Job:
        """Return a job that was killed in the middle of its second task."""
        if self._half is None:
            job = self.job("half")
            assert self.processes.start(job, setup=die_in_task(2)).wait() == -signal.SIGKILL
            self._half = job
        return self.copy(self._half, name)

    def copy(self, job: Job, name: str) -> Job:
        """Return a copy of a job's folder as a job of its own."""
        made = self.job(name)
        shutil.copytree(job.folder, made.folder)
        return made

    def resume(self, job: Job) -> Process:
        """Run the job's command again to its end, and demand the result of the run that nothing happened to."""
        process = self.processes.run(job)
        self.compare(job)
        return process

    def compare(self, job: Job) -> None:
        """Compare a job's result with that of the run that nothing happened to.

        Raises:
            WrongResultError: If one bit differs.
        """
        found = job.outcome()
        differing = [key for key, value in self.expected.items() if found[key] != value]
        if differing:
            raise WrongResultError(f"{job.folder}: {', '.join(differing)} differ")
