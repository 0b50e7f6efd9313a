"""The training shell of one task: what a step, an optimizer and a log line are."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from moleflow.errors import UserError
from moleflow.flow import ExpertFlow
from moleflow.losses import FlowLoss, patch_nll
from moleflow.training.batches import FeatureBatch, FeatureBatches
from moleflow.training.held_out import held_out_nll, warn_of_overfit
from moleflow.training.schedule import learning_rate_factor
from moleflow.training.settings import TaskSettings

log = logging.getLogger(__name__)


class ExpertTraining(L.LightningModule):
    """Trains the experts of one task, and on the first task the base with them.

    Args:
        flow: The flow; only what the task owns is given a gradient.
        experts: Names of the task's experts.
        batches: The task's training set.
        held_out: Patch features (N, H, W, D) by expert of pictures that are not learned, to be measured each epoch.
        pictures: Names of the training pictures by expert, for messages.
        settings: How the task is trained.
        losses: The loss of each expert.
        title: How messages call the task.
        task: Index of the task.
        steps_before: Optimizer steps of all earlier tasks, so that logged steps never go back.
    """

    def __init__(
        self,
        flow: ExpertFlow,
        experts: list[str],
        batches: FeatureBatches,
        held_out: dict[str, Tensor],
        pictures: dict[str, list[str]],
        settings: TaskSettings,
        losses: Mapping[str, FlowLoss],
        title: str,
        task: int,
        steps_before: int,
    ) -> None:
        super().__init__()
        self.flow = flow
        self.batches = batches
        self.held_out = held_out
        self.pictures = pictures
        self.settings = settings
        self.losses = losses
        self.title = title
        self.task = task
        self.steps_before = steps_before
        self.skipped_steps = 0
        self.history: list[dict[str, float]] = []
        self.strict_loading = False  # a checkpoint holds the task's own parameters only
        flow.requires_grad_(False)
        self.learning: list[nn.Parameter] = flow.learning_parameters(experts)
        for parameter in self.learning:
            parameter.requires_grad_()
        # Held back: adapter and auxiliary blocks answer first, to a base that is as the first task left it.
        self._updates = [p for name in experts for p in flow.expert(name).updates.parameters()] if task else []
        self._warms_up = task > 0 and flow.base not in ("separate", "alone")
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}
        self._epoch_lr = settings.lr
        self._current: tuple[FeatureBatch, int]

    def train_dataloader(self) -> Iterable[FeatureBatch]:
        """Return the task's batches, one process's share of them."""
        self.batches.rank, self.batches.world_size = self.trainer.global_rank, self.trainer.world_size
        return self.batches

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return a fresh optimizer for the task."""
        return self.settings.optimizer(self.learning, lr=self.settings.lr)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's sums, its order of pictures and its learning rate.

        The rate follows from the epoch alone, so there is no scheduler whose state a resume would have to mend.
        """
        self._sums, self._counts = {}, {}
        settings = self.settings
        factor = learning_rate_factor(self.current_epoch, settings.epochs, self._warms_up, settings.final_lr_ratio)
        self._epoch_lr = settings.lr * factor
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self._epoch_lr
        self.batches.epoch = self.current_epoch

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> Tensor | None:
        """Return the loss of one batch.

        Raises:
            UserError: If the loss is not finite and ``on_nonfinite`` is ``error``.
        """
        z, logdet = self.flow(batch.features, batch.expert)
        parts = self.losses[batch.expert](patch_nll(z, logdet), logdet)
        self._current = (batch, batch_idx)
        if not bool(parts.total.isfinite()):
            self._skip_or_raise("loss", parts.total)
            return None
        self._count(
            loss=parts.total, nll_mean=parts.mean_nll, nll_tail=parts.tail_nll, logdet_penalty=parts.logdet_penalty
        )
        penalty = self.settings.strategy.penalty(self.flow)
        if penalty is None:
            return parts.total * batch.weight
        self._count(penalty=penalty)
        return parts.total * batch.weight + penalty

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's global norm and remember what it was.

        Raises:
            UserError: If it is not finite and ``on_nonfinite`` is ``error``.
        """
        if all(parameter.grad is None for parameter in self.learning):
            return  # the step is left out
        if self.current_epoch < self.settings.lora_delay:
            for parameter in self._updates:
                parameter.grad = None  # the optimizer then leaves the parameter and its moments alone
        limit = torch.inf if gradient_clip_val is None else gradient_clip_val
        norm = nn.utils.clip_grad_norm_(self.learning, limit)
        if not bool(norm.isfinite()):
            self._skip_or_raise("gradient's norm", norm)
            optimizer.zero_grad(set_to_none=True)  # without gradients the optimizer moves nothing
            return
        self._count(grad_norm=norm)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means on the global step.

        Raises:
            UserError: If not one optimizer step of the task was made.
        """
        means = self.epoch_means() | {"lr": self._epoch_lr, "skipped_steps": float(self.skipped_steps)}
        held = held_out_nll(self.flow, self.held_out)
        self.history.append({"epoch": float(self.current_epoch), **means, **held})
        if self.trainer.is_global_zero:
            warn_of_overfit(self.history, self.title)
        self.log("step", float(self.global_training_step), sync_dist=True)
        self.log_dict(epoch_line(self.task, self.history[-1]), sync_dist=True)
        if self.current_epoch + 1 == self.settings.epochs and self.trainer.global_step == self.skipped_steps:
            raise UserError(
                f"{self.title}: not one optimizer step was made, every loss was not finite. "
                "Lower optimizer.lr or model.coupling_layers."
            )

    def epoch_means(self) -> dict[str, float]:
        """Return the means of the loss, its parts and the gradient norm over the current epoch's steps so far."""
        return {name: float(total / self._counts[name]) for name, total in self._sums.items()}

    @property
    def global_training_step(self) -> int:
        """Optimizer steps of the whole run so far."""
        return self.steps_before + self.trainer.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the task trains; the rest lies in the model folder."""
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in self._learning_names()}
        checkpoint["history"] = self.history
        checkpoint["skipped_steps"] = self.skipped_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what :meth:`on_save_checkpoint` kept.

        By order and not by name: names count experts, and a parallel job has no others than the first task's.
        """
        kept = checkpoint["state_dict"].values()
        checkpoint["state_dict"] = dict(zip(self._learning_names(), kept, strict=True))
        self.history = checkpoint["history"]
        self.skipped_steps = checkpoint["skipped_steps"]

    def _learning_names(self) -> list[str]:
        learning = {id(parameter) for parameter in self.learning}
        return [name for name, parameter in self.named_parameters() if id(parameter) in learning]

    def _count(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1

    def _skip_or_raise(self, what: str, value: Tensor) -> None:
        """Count the current step as left out, or say where it went wrong."""
        batch, step = self._current
        names = ", ".join(self.pictures[batch.expert][i] for i in batch.indices.tolist())
        place = (
            f"{self.title}: the {what} is {float(value.detach())} in epoch {self.current_epoch}, step {step}, expert "
            f"{batch.expert!r}, pictures {names}."
        )
        if self.settings.on_nonfinite == "skip":
            self.skipped_steps += 1
            log.warning("%s The step is left out.", place)
            return
        raise UserError(
            f"{place} Lower optimizer.lr, or set optimizer.on_nonfinite=skip to leave such steps out and count them."
        )


def epoch_line(task: int, epoch: dict[str, float]) -> dict[str, float]:
    """Return what loggers are told of an epoch, by the names that they know it by."""
    line = {"train/task": float(task)}
    for key, value in epoch.items():
        if key.startswith("held_out_"):
            line[f"val/{key.removeprefix('held_out_')}"] = value
        elif key != "epoch":
            line[f"train/{key}"] = value
    return line
