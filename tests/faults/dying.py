"""Ways to kill a run from inside, each as the setup of a process: see `Processes.start`."""

import os
import signal
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR

_IN_TASK = """
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
    return _IN_TASK.replace("TASK", str(number - 1))


def die_at(operation: int, folder: Path) -> str:
    """Return the setup of a process that is killed at its n-th operation on files below a folder."""
    return f"import sys; from faults.dying import DieAt; sys.addaudithook(DieAt({operation}, {str(folder)!r}))"


class DieAt:
    """Kills the process at its n-th operation on files below a folder: before an open to write, a rename, a removal."""

    def __init__(self, operation: int, folder: str) -> None:
        self.left = operation
        self.folder = folder

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hear of an event: see :func:`sys.addaudithook`."""
        if event == "open":
            touches = isinstance(arguments[2], int) and bool(arguments[2] & WRITING)
        else:
            touches = event in ("os.rename", "os.remove")
        if touches and str(arguments[0]).startswith(self.folder):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
