"""Runs of ``train.py`` on a tiny data set, as processes that tests may kill, and comparison of their results."""

import json
import re
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_injection.kill_points import kill_in_task
from helpers.processes import Process, Processes
from helpers.program import LARGE_SET
from helpers.trees import write_mvtec_tree

TINY = (
    "dataset=folder", "backbone=resnet18", "backbone.name=test_resnet", "backbone.pretrained=false", "backbone.dim=32",
    "transform.size=64", "trainer=cpu", "callbacks=minimal",
)  # fmt: skip
"""Overrides of the smallest runs: features of an untrained network."""
FLOW = ("epochs=3", "batch_size=2", "model.coupling_layers=2", "model.lora_rank=4")
"""Overrides of the smallest flow: three epochs, two coupling blocks."""
CLOSED_FORM = ("model=patchcore", "model.size=60", "scoring.top_k=2", *LARGE_SET)
"""Overrides of the smallest model like that of ``experiment=best``: memory banks in two feature sets, no training."""
WITH_IMAGES = "callbacks=default"
"""Override of jobs that also draw example images, which takes longer than the rest of the run."""
VOLATILE_KEYS = ("seconds", "started", "finished", "memory", "overrides")
"""Keys of ``metrics.json`` that differ between equal runs: times, and the command, which contains the folder."""


class WrongResultError(AssertionError):
    """A run finished with another result than the reference run."""


@dataclass(frozen=True)
class Job:
    """One run on one data set in one folder.

    Attributes:
        tree: Root of the data set.
        folder: The run folder.
        cache: The feature cache.
        extra: Further overrides.
        model: Overrides of the model.
    """

    tree: Path
    folder: Path
    cache: Path
    extra: tuple[str, ...] = ()
    model: tuple[str, ...] = FLOW

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        paths = {"dataset.root": self.tree, "hydra.run.dir": self.folder, "features.cache_dir": self.cache}
        return [*TINY, *self.model, *(f"{key}={value}" for key, value in paths.items()), *self.extra]

    @property
    def log(self) -> Path:
        """File of the processes' output, outside the folder, whose disk may be full."""
        return self.folder.parent.with_name(f"{self.folder.parent.name}.log")

    @property
    def metrics(self) -> dict[str, Any]:
        """Content of ``metrics.json`` without the volatile keys."""
        content = json.loads((self.folder / "metrics.json").read_text())
        return {key: value for key, value in content.items() if key not in VOLATILE_KEYS}

    @property
    def status(self) -> str:
        """The status in ``status.json``."""
        return str(json.loads((self.folder / "status.json").read_text())["status"])

    def outcome(self) -> dict[str, Any]:
        """Return everything that a run must reproduce to the last bit: metrics, scores and all files of the model."""
        model = {path.name: path.read_bytes() for path in sorted((self.folder / "model").rglob("*")) if path.is_file()}
        return {"metrics": self.metrics, "scores": (self.folder / "scores.csv").read_bytes(), "model": model}


class Harness:
    """A data set, its undisturbed reference run, and jobs whose results must equal those of the reference run.

    Args:
        base: An empty folder.
        processes: Starts the runs.
        categories: Categories of the data set.
        model: Overrides of the model.
    """

    def __init__(
        self,
        base: Path,
        processes: Processes,
        categories: Sequence[str] = ("bottle", "screw"),
        model: tuple[str, ...] = FLOW,
    ) -> None:
        self.base = base
        self.model = model
        self.processes = processes
        self.tree = write_mvtec_tree(base / "tree", categories)
        self.reference = self.job("reference")
        self.duration = -time.monotonic()
        self.finish(self.reference)
        self.duration += time.monotonic()
        self.expected = self.reference.outcome()
        self._killed: Job | None = None

    def job(self, name: str, *extra: str, separate_cache: bool = False) -> Job:
        """Return a job in a new folder.

        Args:
            name: Name of the folder.
            extra: Further overrides.
            separate_cache: Whether the job has its own feature cache instead of that of the reference run.
        """
        folder = self.base / name
        cache = folder / "cache" if separate_cache else self.base / "cache"
        return Job(self.tree, folder / "run", cache, extra, self.model)

    def killed_job(self, name: str) -> Job:
        """Return a new job whose run was killed in the middle of its second task."""
        if self._killed is None:
            job = self.job("killed")
            assert self.start(job, setup=kill_in_task(2)).wait() == -signal.SIGKILL
            self._killed = job
        return self.copy(self._killed, name)

    def copy(self, job: Job, name: str) -> Job:
        """Return a new job with a copy of a job's run folder."""
        duplicate = self.job(name)
        shutil.copytree(job.folder, duplicate.folder)
        return duplicate

    def start(self, job: Job, *overrides: str, setup: str = "") -> Process:
        """Start a job.

        Args:
            job: The job.
            overrides: Overrides in addition to those of the job.
            setup: Code that the process executes first.
        """
        return self.processes.start(*job.arguments, *overrides, log=job.log, setup=setup)

    def finish(self, job: Job, setup: str = "") -> Process:
        """Start a job, wait for its end, and assert that it succeeded.

        Args:
            job: The job.
            setup: Code that the process executes first.
        """
        process = self.start(job, setup=setup)
        status = process.wait()
        assert status == 0, f"exit status {status}: {process.output[-3000:]}"
        return process

    def resume(self, job: Job) -> Process:
        """Run the job's command again to its end, and assert that its result is that of the reference run."""
        process = self.finish(job)
        self.compare(job)
        return process

    def compare(self, job: Job) -> None:
        """Compare a job's result with that of the reference run.

        Raises:
            WrongResultError: If one bit differs.
        """
        outcome = job.outcome()
        differing = [key for key, value in self.expected.items() if outcome[key] != value]
        if differing:
            raise WrongResultError(f"{job.folder}: {', '.join(differing)} differ from the reference run")


def phase(output: str) -> str:
    """Return the phase of the last progress bar in an output: start, features, task, evaluate or oracle."""
    phases = re.findall(r"(features|task|evaluate|oracle)(?: \d+/\d+[^:\r\n]*)?: +\d+%", output)
    return phases[-1] if phases else "start"
