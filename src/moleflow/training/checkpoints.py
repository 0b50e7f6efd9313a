"""What a task in progress leaves on disk after each epoch, so that a killed run goes on from there."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

from moleflow.files import replacing, sha256

log = logging.getLogger(__name__)


class TaskCheckpoints:
    """The newest checkpoint of one task: ``task<i>-epoch<n>-<digest>.ckpt``.

    A file's name holds its digest, so file and checksum become visible in one rename.

    Args:
        folder: Where checkpoints lie.
        task: Index of the task.
    """

    def __init__(self, folder: Path, task: int) -> None:
        self.folder = folder
        self.task = task

    def add(self, epoch: int, write: Callable[[Path], None]) -> None:
        """Keep a new checkpoint and drop the older ones.

        Args:
            epoch: The epoch that is complete.
            write: Writes the checkpoint to a path.

        Raises:
            UserError: If it cannot be written; the older ones are then still there.
        """
        unnamed = self.folder / f"task{self.task}.new"
        with replacing(unnamed) as temporary:
            try:
                write(temporary)
            except RuntimeError as error:  # how torch's zip writer tells of a full disk
                raise OSError(str(error)) from error
        older = self._all()
        newest = self.folder / f"task{self.task}-epoch{epoch:05d}-{sha256(unnamed)[:16]}.ckpt"
        unnamed.replace(newest)
        for path in older:
            if path != newest:
                path.unlink()

    def latest(self) -> Path | None:
        """Return the newest checkpoint that is whole; a damaged one is named in a warning and never used."""
        for path in reversed(self._all()):
            if sha256(path).startswith(path.stem.rsplit("-", 1)[1]):
                return path
            log.warning(
                "The checkpoint %s is damaged; it is not used, the epochs since the one before are repeated.", path
            )
        return None

    def clear(self) -> None:
        """Remove the task's checkpoints."""
        for path in self._all():
            path.unlink()

    def _all(self) -> list[Path]:
        """All of this task's checkpoints, in the order of their epochs."""
        pattern = re.compile(rf"task{self.task}-epoch\d+-[0-9a-f]+")
        return sorted(path for path in self.folder.glob("*.ckpt") if pattern.fullmatch(path.stem))
