"""How the tasks of a run are trained: plain values, checked where they are read from the config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from moleflow.continual import Strategy
from moleflow.losses import FlowLoss
from moleflow.own_settings import Own

OptimizerFactory = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class TaskSettings:
    """How each task is trained.

    Attributes:
        epochs: Epochs a task.
        batch_size: Largest number of pictures in an optimizer step.
        experts: ``task`` gives all categories of a task one expert, ``category`` each its own.
        loss: The loss.
        optimizer: Builds the optimizer from parameters and ``lr``.
        lr: Peak learning rate.
        final_lr_ratio: Last learning rate over the peak.
        on_nonfinite: ``error`` ends the run at a loss that is not finite, ``skip`` leaves the step out and counts it.
        lora_delay: Epochs at the begin of each later task in which the experts' updates of the base stay as they are.
        held_out: Training pictures of a category that nothing is learned from: a share below 1, or a number.
        seed: The run's seed.
        per_category: Where the experts of some categories differ; see :mod:`moleflow.own_settings`.
        losses: The losses of these categories.
        strategy: What a task does for the tasks before it.
    """

    epochs: int
    batch_size: int
    experts: str
    loss: FlowLoss
    optimizer: OptimizerFactory
    lr: float
    final_lr_ratio: float
    on_nonfinite: str
    lora_delay: int
    held_out: float
    seed: int
    per_category: Mapping[str, Own] = field(default_factory=dict)
    losses: Mapping[str, FlowLoss] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=Strategy)

    def loss_of(self, categories: Sequence[str]) -> FlowLoss:
        """Return the loss of an expert, whose categories have equal settings."""
        return self.losses.get(categories[0], self.loss)
