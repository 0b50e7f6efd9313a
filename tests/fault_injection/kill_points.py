"""Points at which a run kills itself, each as setup code for :meth:`helpers.processes.Processes.start`."""

import os
import signal
from pathlib import Path
from typing import Any

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR

_IN_TASK = """
import os, signal
from moleflow.training.state import TaskCheckpoints
add = TaskCheckpoints.add
def add_and_kill(self, epoch, write):
    add(self, epoch, write)
    if (self.task, epoch) == (TASK, 1):
        os.kill(os.getpid(), signal.SIGKILL)
TaskCheckpoints.add = add_and_kill
"""


def kill_in_task(number: int) -> str:
    """Return setup code that kills the process after the second epoch of a task.

    Args:
        number: Number of the task, from 1.
    """
    return _IN_TASK.replace("TASK", str(number - 1))


def kill_at_operation(operation: int, folder: Path) -> str:
    """Return setup code that kills the process at an operation on files; see :class:`FileOperationKiller`.

    Args:
        operation: Number of the operation, from 1.
        folder: Only operations on files below this folder are counted.
    """
    return (
        "import sys; from fault_injection.kill_points import FileOperationKiller; "
        f"sys.addaudithook(FileOperationKiller({operation}, {str(folder)!r}))"
    )


class FileOperationKiller:
    """Audit hook that kills the process just before its n-th open for writing, rename or removal of a file.

    Args:
        operation: Number n of the operation, from 1.
        folder: Only operations on files below this folder are counted.
    """

    def __init__(self, operation: int, folder: str) -> None:
        self.remaining = operation
        self.folder = folder

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an event of :func:`sys.addaudithook`."""
        if event == "open":
            counts = isinstance(arguments[2], int) and bool(arguments[2] & WRITE_FLAGS)
        else:
            counts = event in ("os.rename", "os.remove")
        if counts and str(arguments[0]).startswith(self.folder):
            self.remaining -= 1
            if not self.remaining:
                os.kill(os.getpid(), signal.SIGKILL)
