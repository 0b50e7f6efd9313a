"""Progress bar of a task."""

from typing import Any

import lightning as L
from tqdm import tqdm

from moleflow.training.callbacks.base import RunCallback
from moleflow.training.lightning_module import FlowModule


class TaskProgress(RunCallback):
    """One progress bar per task that counts epochs.

    Args:
        show: Whether to show it.
    """

    def __init__(self, show: bool = True) -> None:
        self.show = show
        self._bar: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar."""
        assert isinstance(pl_module, FlowModule)
        if self.show and trainer.is_global_zero:
            self._bar = tqdm(
                total=pl_module.config.epochs,
                initial=trainer.current_epoch,
                desc=pl_module.label,
                unit="epoch",
                leave=True,
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Advance the bar and show the loss."""
        assert isinstance(pl_module, FlowModule)
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
