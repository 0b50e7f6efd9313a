"""Callbacks: what happens around the training of a task and after it."""

from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from tqdm import tqdm

from moleflow.training.checkpoints import TaskCheckpoints
from moleflow.training.module import ExpertTraining

if TYPE_CHECKING:
    from moleflow.training.sequence import TaskReport, TaskSequence


class RunCallback(L.Callback):
    """A Lightning callback that is also told when a task was evaluated and when the run is complete."""

    def on_task_evaluated(self, run: "TaskSequence", report: "TaskReport") -> None:
        """Called after each task, once its row of the task matrix is known."""

    def on_run_complete(self, run: "TaskSequence", metrics: dict[str, Any]) -> None:
        """Called once, with the content of ``metrics.json``, before it is written."""


class TaskProgress(RunCallback):
    """One progress bar a task, counting epochs and naming the task.

    Args:
        show: Whether to show it.
    """

    def __init__(self, show: bool = True) -> None:
        self.show = show
        self._bar: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar."""
        assert isinstance(pl_module, ExpertTraining)
        if self.show and trainer.is_global_zero:
            self._bar = tqdm(
                total=pl_module.settings.epochs,
                initial=trainer.current_epoch,
                desc=pl_module.title,
                unit="epoch",
                leave=True,
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Advance the bar and show the loss."""
        assert isinstance(pl_module, ExpertTraining)
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{pl_module.epoch_means().get('loss', float('nan')):.4g}", refresh=False)
            self._bar.update()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class EpochCheckpoint(Checkpoint):
    """After each epoch, writes what the task needs to go on from there after a kill.

    Lightning calls a ``Checkpoint`` after the module's own hook, when the epoch is on record.

    Args:
        checkpoints: Where to.
    """

    def __init__(self, checkpoints: TaskCheckpoints) -> None:
        self.checkpoints = checkpoints

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the checkpoint."""
        if trainer.is_global_zero:
            self.checkpoints.add(trainer.current_epoch, trainer.save_checkpoint)
        else:
            trainer.strategy.barrier()
