"""Stops a run inside a task as a kill does: after a checkpoint was written, and with nothing tidied up after."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.program import run_program
from moleflow.training.checkpoints import TaskCheckpoints


class Killed(BaseException):
    """Not an Exception: nothing in the program catches it to go on."""


def stopped_and_continued(overrides: list[str], folder: Path, task: int, epoch: int) -> dict[str, Any]:
    """Run, stop after an epoch of a task, run the same command again; return the content of ``metrics.json``."""

    def add(self: TaskCheckpoints, done: int, write: Callable[[Path], None]) -> None:
        whole(self, done, write)
        if (self.task, done) == (task, epoch):
            raise Killed

    whole = TaskCheckpoints.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskCheckpoints, "add", add)
        with pytest.raises(Killed):
            run_program(overrides, folder)
    return run_program(overrides, folder)
