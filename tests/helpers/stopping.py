"""Interruption of a run within a task: right after a checkpoint is written, as by a kill."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.program import run_program
from moleflow.training.state import TaskCheckpoints


class Killed(BaseException):
    """End of a run that no ``except Exception`` of the program catches."""


def stop_and_resume(overrides: list[str], folder: Path, task: int, epoch: int) -> dict[str, Any]:
    """Stop a run after an epoch, run the same command again, and return the content of ``metrics.json``.

    Args:
        overrides: Overrides of the command.
        folder: The run folder.
        task: Index of the task.
        epoch: Epoch of the task, from 0, after whose checkpoint the run is stopped.
    """
    add = TaskCheckpoints.add

    def add_and_stop(self: TaskCheckpoints, completed: int, write: Callable[[Path], None]) -> None:
        add(self, completed, write)
        if (self.task, completed) == (task, epoch):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskCheckpoints, "add", add_and_stop)
        with pytest.raises(Killed):
            run_program(overrides, folder)
    return run_program(overrides, folder)
