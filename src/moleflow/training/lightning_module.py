"""The LightningModule that trains the flow on one task, and its learning-rate schedule."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import FlowLoss, patch_nll
from moleflow.training.config import TrainingConfig
from moleflow.training.data_loader import FeatureBatch, FeatureLoader
from moleflow.training.validation import validation_nll, warn_of_overfitting
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator

log = logging.getLogger(__name__)


class FlowModule(L.LightningModule):
    """Trains the experts of one task, and on the first task also the base.

    Args:
        flow: The flow; only the parameters of this task get gradients.
        experts: Names of the task's experts.
        loader: Training batches of the task.
        validation: Patch features (N, h, w, D) of the validation images by expert; their NLL is logged every epoch.
        image_names: Names of the training images by expert, for messages.
        config: How the task is trained.
        losses: The loss of each expert.
        label: The task's label for messages.
        task: Index of the task.
        previous_steps: Optimizer steps of all earlier tasks, so that logged steps increase throughout the run.
    """

    def __init__(
        self,
        flow: ExpertFlow,
        experts: list[str],
        loader: FeatureLoader,
        validation: dict[str, Tensor],
        image_names: dict[str, list[str]],
        config: TrainingConfig,
        losses: Mapping[str, FlowLoss],
        label: str,
        task: int,
        previous_steps: int,
    ) -> None:
        super().__init__()
        self.flow = flow
        self.loader = loader
        self.validation = validation
        self.image_names = image_names
        self.config = config
        self.losses = losses
        self.label = label
        self.task = task
        self.previous_steps = previous_steps
        self.skipped_steps = 0
        self.history: list[dict[str, float]] = []
        self.strict_loading = False  # a checkpoint has the parameters of this task only
        flow.requires_grad_(False)
        self.trained: list[nn.Parameter] = flow.trainable_parameters(experts)
        for parameter in self.trained:
            parameter.requires_grad_()
        # optimizer.lora_delay: first adapter and DIA blocks fit the base as the first task left it.
        self._lora = [p for name in experts for p in flow.expert(name).updates.parameters()] if task else []
        self._warmup = task > 0 and flow.base not in ("separate", "none")
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}
        self._epoch_lr = config.lr
        self._current: tuple[FeatureBatch, int]

    def train_dataloader(self) -> Iterable[FeatureBatch]:
        """Return this process's share of the task's batches."""
        self.loader.rank, self.loader.world_size = self.trainer.global_rank, self.trainer.world_size
        return self.loader

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return a new optimizer for the task."""
        return self.config.optimizer(self.trained, lr=self.config.lr)

    def on_train_epoch_start(self) -> None:
        """Reset the epoch's sums and set its order of batches and learning rate.

        The learning rate is a function of the epoch, so a resumed task needs no scheduler state.
        """
        self._sums, self._counts = {}, {}
        factor = learning_rate_factor(self.current_epoch, self.config.epochs, self._warmup, self.config.final_lr_ratio)
        self._epoch_lr = self.config.lr * factor
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self._epoch_lr
        self.loader.epoch = self.current_epoch

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> Tensor | None:
        """Return the loss of a batch; None for a skipped step.

        Raises:
            UserError: If the loss is not finite and ``optimizer.on_nonfinite=error``.
        """
        z, logdet = self.flow(batch.features, batch.expert, self._patches(batch))
        parts = self.losses[batch.expert](patch_nll(z, logdet), logdet)
        self._current = (batch, batch_idx)
        if not bool(parts.total.isfinite()):
            self._skip_or_raise("loss", parts.total)
            return None
        self._record(
            loss=parts.total, nll_mean=parts.mean_nll, nll_tail=parts.tail_nll, logdet_penalty=parts.logdet_penalty
        )
        penalty = self.config.strategy.penalty(self.flow)
        if penalty is None:
            return parts.total * batch.weight
        self._record(penalty=penalty)
        return parts.total * batch.weight + penalty

    def _patches(self, batch: FeatureBatch) -> Tensor | None:
        """Return indices (B, n) of the patches of each image in the current step; None for all patches.

        They depend on image and epoch, and neither on the batch nor on the number of processes.
        """
        if self.config.patch_share == 1:
            return None
        count = batch.features.shape[1] * batch.features.shape[2]
        size = max(1, round(self.config.patch_share * count))
        key = (self.config.seed, "patches", self.task, batch.expert, self.current_epoch)
        draws = [torch.randperm(count, generator=generator(*key, i))[:size] for i in batch.indices.tolist()]
        return torch.stack(draws).to(batch.features.device)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global gradient norm and record the norm before clipping.

        Raises:
            UserError: If the norm is not finite and ``optimizer.on_nonfinite=error``.
        """
        if all(parameter.grad is None for parameter in self.trained):
            return  # a skipped step
        if self.current_epoch < self.config.lora_delay:
            for parameter in self._lora:
                parameter.grad = None  # the optimizer then changes neither the parameter nor its moments
        max_norm = torch.inf if gradient_clip_val is None else gradient_clip_val
        norm = nn.utils.clip_grad_norm_(self.trained, max_norm)
        if not bool(norm.isfinite()):
            self._skip_or_raise("gradient norm", norm)
            optimizer.zero_grad(set_to_none=True)  # without gradients the optimizer changes nothing
            return
        self._record(grad_norm=norm)

    def on_train_epoch_end(self) -> None:
        """Append the epoch to the history and log its means at the global step.

        Raises:
            UserError: If every optimizer step of the task was skipped.
        """
        means = self.epoch_means() | {"lr": self._epoch_lr, "skipped_steps": float(self.skipped_steps)}
        validation = validation_nll(self.flow, self.validation)
        self.history.append({"epoch": float(self.current_epoch), **means, **validation})
        if self.trainer.is_global_zero:
            warn_of_overfitting(self.history, self.label)
        self.log("step", float(self.global_training_step), sync_dist=True)
        self.log_dict(epoch_log_entry(self.task, self.history[-1]), sync_dist=True)
        if self.current_epoch + 1 == self.config.epochs and self.trainer.global_step == self.skipped_steps:
            raise UserError(
                f"{self.label}: every optimizer step was skipped because the loss was not finite. "
                "Lower optimizer.lr or model.coupling_layers."
            )

    def epoch_means(self) -> dict[str, float]:
        """Return the means of the loss, its terms and the gradient norm over the current epoch's steps."""
        return {name: float(total / self._counts[name]) for name, total in self._sums.items()}

    @property
    def global_training_step(self) -> int:
        """Optimizer steps of the run so far, over all tasks."""
        return self.previous_steps + self.trainer.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the parameters of this task; all others are in the model folder."""
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in self._trained_names()}
        checkpoint["history"] = self.history
        checkpoint["skipped_steps"] = self.skipped_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the content of :meth:`on_save_checkpoint`.

        Parameters are matched by order: their names contain the expert's position, which differs in a parallel job.
        """
        values = checkpoint["state_dict"].values()
        checkpoint["state_dict"] = dict(zip(self._trained_names(), values, strict=True))
        self.history = checkpoint["history"]
        self.skipped_steps = checkpoint["skipped_steps"]

    def _trained_names(self) -> list[str]:
        trained = {id(parameter) for parameter in self.trained}
        return [name for name, parameter in self.named_parameters() if id(parameter) in trained]

    def _record(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1

    def _skip_or_raise(self, quantity: str, value: Tensor) -> None:
        """Count the current step as skipped, or raise an error that locates it."""
        batch, step = self._current
        names = ", ".join(self.image_names[batch.expert][i] for i in batch.indices.tolist())
        message = (
            f"{self.label}: the {quantity} is {float(value.detach())} in epoch {self.current_epoch}, step {step}, "
            f"expert {batch.expert!r}, images {names}."
        )
        if self.config.on_nonfinite == "skip":
            self.skipped_steps += 1
            log.warning("%s The step is skipped.", message)
            return
        raise UserError(
            f"{message} Lower optimizer.lr, or set optimizer.on_nonfinite=skip to skip and count such steps."
        )


def epoch_log_entry(task: int, epoch: Mapping[str, float]) -> dict[str, float]:
    """Return an epoch of the history under the names of the loggers: ``train/...`` and ``val/...``."""
    entry = {"train/task": float(task)}
    for key, value in epoch.items():
        if key.startswith("held_out_"):
            entry[f"val/{key.removeprefix('held_out_')}"] = value
        elif key != "epoch":
            entry[f"train/{key}"] = value
    return entry


def learning_rate_factor(epoch: int, epochs: int, warmup: bool, final_ratio: float = 0.01) -> float:
    """Return the learning rate of an epoch divided by its peak.

    Cosine annealing from 1 to ``final_ratio`` over ``epochs``. With warm-up (tasks after the first) epoch 0 has one
    half, epoch 1 the peak, and the cosine starts at epoch 2, so it ends two epochs before its minimum.

    Args:
        epoch: Epoch of the task, from 0.
        epochs: Epochs of the task.
        warmup: Whether the task has a warm-up.
        final_ratio: Last learning rate divided by the peak.
    """
    if warmup and epoch == 0:
        return 0.5
    position = max(epoch - 2, 0) if warmup else epoch
    return final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * position / epochs))
