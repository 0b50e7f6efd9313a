"""The folder ``state`` of a run: epoch checkpoints and the state of the continual strategy."""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from moleflow.utils.errors import UserError
from moleflow.utils.io import atomic_write, sha256, write_bytes
from moleflow.utils.serialization import bytes_to_tensors, tensors_to_bytes

log = logging.getLogger(__name__)


class TaskCheckpoints:
    """Checkpoints of one task, ``task<i>-epoch<n>-<digest>.ckpt``; only the newest is kept.

    The file name contains the digest, so file and checksum appear in one rename.

    Args:
        folder: Folder of the checkpoints.
        task: Index of the task.
    """

    def __init__(self, folder: Path, task: int) -> None:
        self.folder = folder
        self.task = task

    def add(self, epoch: int, write: Callable[[Path], None]) -> None:
        """Write a new checkpoint and remove the older ones.

        Args:
            epoch: The completed epoch.
            write: Writes the checkpoint to a path.

        Raises:
            UserError: If it cannot be written; the older ones then remain.
        """
        unnamed = self.folder / f"task{self.task}.new"
        with atomic_write(unnamed) as temporary:
            try:
                write(temporary)
            except RuntimeError as error:  # torch's zip writer raises it on a full disk
                raise OSError(str(error)) from error
        older = self._all()
        newest = self.folder / f"task{self.task}-epoch{epoch:05d}-{sha256(unnamed)[:16]}.ckpt"
        unnamed.replace(newest)
        for path in older:
            if path != newest:
                path.unlink()

    def latest(self) -> Path | None:
        """Return the newest undamaged checkpoint, or None; damaged ones are skipped with a warning."""
        for path in reversed(self._all()):
            if sha256(path).startswith(path.stem.rsplit("-", 1)[1]):
                return path
            log.warning("The checkpoint %s is damaged and is not used. Its epochs are trained again.", path)
        return None

    def clear(self) -> None:
        """Remove the task's checkpoints."""
        for path in self._all():
            path.unlink()

    def _all(self) -> list[Path]:
        """Return all checkpoints of the task, in order of their epochs."""
        pattern = re.compile(rf"task{self.task}-epoch\d+-[0-9a-f]+")
        return sorted(path for path in self.folder.glob("*.ckpt") if pattern.fullmatch(path.stem))


class EpochCheckpoint(Checkpoint):
    """Writes a checkpoint after each epoch, from which a killed task is resumed.

    Lightning runs ``Checkpoint`` callbacks after the module's own hooks, when the epoch's history is complete.

    Args:
        checkpoints: The checkpoints of the task.
    """

    def __init__(self, checkpoints: TaskCheckpoints) -> None:
        self.checkpoints = checkpoints

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the checkpoint."""
        if trainer.is_global_zero:
            self.checkpoints.add(trainer.current_epoch, trainer.save_checkpoint)
        else:
            trainer.strategy.barrier()


def save_strategy_state(folder: Path, task: int, tensors: Mapping[str, Tensor]) -> str | None:
    """Write the state of a continual strategy and return the file's name; None for an empty state.

    The file is ``strategy<task>-<digest>.safetensors``. Those of earlier tasks remain until
    :func:`prune_strategy_state`, so a run that is killed in between still has the one that it recorded.

    Args:
        folder: Folder of the file.
        task: Index of the finished task.
        tensors: The state by name.
    """
    if not tensors:
        return None
    content = tensors_to_bytes(tensors)
    name = f"strategy{task}-{hashlib.sha256(content).hexdigest()}.safetensors"
    write_bytes(folder / name, content)
    return name


def load_strategy_state(folder: Path, name: str | None) -> dict[str, Tensor]:
    """Return the state that was written under a name; an empty one for None.

    Raises:
        UserError: If the file is missing or damaged.
    """
    if name is None:
        return {}
    path = folder / name
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != path.stem.rsplit("-", 1)[1]:
        raise UserError(
            f"{path} is missing or damaged, and the next task needs it. Restore it, or start again in a new folder "
            "with hydra.run.dir=..."
        )
    return bytes_to_tensors(content)


def prune_strategy_state(folder: Path, name: str | None) -> None:
    """Remove the strategy states of all names except one."""
    for path in folder.glob("strategy*.safetensors"):
        if path.name != name:
            path.unlink()


def num_values(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of values in tensors."""
    return sum(tensor.numel() for tensor in tensors.values())
