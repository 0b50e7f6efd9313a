"""Runs of the real program on a tiny tree, as processes that tests may kill, and what their folders say afterwards."""

import json
import re
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.dying import die_in_task
from helpers.processes import Process, Processes
from helpers.trees import write_mvtec_tree

TINY = (
    "dataset=folder", "backbone=resnet18", "backbone.pretrained=false", "backbone.dim=32", "transform.size=64",
    "epochs=3", "batch_size=2", "model.coupling_layers=2", "model.lora_rank=4", "trainer=cpu",
    "callbacks=progress",
)  # fmt: skip
"""The smallest run that has everything: three epochs, two coupling blocks, features of an untrained network."""
DRAWN = "callbacks=default"
"""The override of jobs that draw their pictures, too, which takes longer than all else."""
# The command is part of the metrics, and every test here runs in its own folder.
DATES = ("seconds", "started", "finished", "memory", "overrides")


class WrongResultError(AssertionError):
    """A run ended with another result: the one thing that must never be."""


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
    def log(self) -> Path:
        """The file that its processes print to; not where the job's disk may be full."""
        return self.folder.parent.with_name(f"{self.folder.parent.name}.log")

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


class Bench:
    """A place for experiments: a tree of some categories, and the run on it that nothing happened to.

    Args:
        base: An empty folder.
        processes: Where runs are started.
        categories: Those of the tree.
    """

    def __init__(self, base: Path, processes: Processes, categories: Sequence[str] = ("bottle", "screw")) -> None:
        self.base = base
        self.processes = processes
        self.tree = write_mvtec_tree(base / "tree", categories)
        self.reference = self.job("reference")
        self.duration = -time.monotonic()
        self.finish(self.reference)
        self.duration += time.monotonic()
        self.expected = self.reference.outcome()
        self._half: Job | None = None

    def job(self, name: str, *extra: str, own_cache: bool = False) -> Job:
        """Return a job in a new folder of this name; it shares the reference's features unless told otherwise."""
        place = self.base / name
        return Job(self.tree, place / "run", place / "cache" if own_cache else self.base / "cache", extra)

    def half(self, name: str) -> Job:
        """Return a job that was killed in the middle of its second task."""
        if self._half is None:
            job = self.job("half")
            assert self.start(job, setup=die_in_task(2)).wait() == -signal.SIGKILL
            self._half = job
        return self.copy(self._half, name)

    def copy(self, job: Job, name: str) -> Job:
        """Return a copy of a job's folder as a job of its own."""
        made = self.job(name)
        shutil.copytree(job.folder, made.folder)
        return made

    def start(self, job: Job, *overrides: str, setup: str = "") -> Process:
        """Start a job, with overrides on top of its own; see `Processes.start`."""
        return self.processes.start(*job.arguments, *overrides, log=job.log, setup=setup)

    def finish(self, job: Job, setup: str = "") -> Process:
        """Start a job, wait for its end, and demand success."""
        process = self.start(job, setup=setup)
        status = process.wait()
        assert status == 0, f"exit status {status}: {process.output[-3000:]}"
        return process

    def resume(self, job: Job) -> Process:
        """Run the job's command again to its end, and demand the result of the run that nothing happened to."""
        process = self.finish(job)
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


def phase(output: str) -> str:
    """Return what the last progress bar was about: start, features, task, evaluate or oracle."""
    found = re.findall(r"(features|task|evaluate|oracle)(?: \d+/\d+[^:\r\n]*)?: +\d+%", output)
    return found[-1] if found else "start"
