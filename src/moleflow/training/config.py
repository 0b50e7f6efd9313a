"""Training configuration: plain values that determine how each task is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from moleflow.data.splits import Returns
from moleflow.data.tasks import Task
from moleflow.data.transforms import AUGMENTATIONS
from moleflow.detector.types import Overrides
from moleflow.models.flow.loss import FlowLoss
from moleflow.training.strategies.base import ContinualStrategy

OptimizerFactory = Callable[..., torch.optim.Optimizer]
"""Returns an optimizer from parameters and ``lr``."""


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of the training of each task.

    Attributes:
        epochs: Epochs per task.
        batch_size: Largest number of images in an optimizer step.
        experts: ``task`` gives all categories of a task one expert, ``category`` gives each category its own.
        loss: The loss.
        optimizer: Builds the optimizer.
        lr: Peak learning rate.
        final_lr_ratio: Last learning rate divided by the peak.
        on_nonfinite: ``error`` ends the run at a loss that is not finite, ``skip`` skips and counts the step.
        lora_delay: Epochs at the start of each later task in which LoRA updates are frozen.
        patch_share: Share in (0, 1] of the patches of each image in an optimizer step.
        augmentation: Augmentation of the training images; a key of :data:`moleflow.data.transforms.AUGMENTATIONS`, or
            ``auto``; see :mod:`moleflow.training.augmentation`.
        seed: Seed of the run.
        per_category: The overrides by category; see :mod:`moleflow.detector.overrides`.
        losses: The losses of the categories that have overrides.
        strategy: The continual-learning strategy.
        returns: Images of the categories that return in a later task.
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
    patch_share: float
    augmentation: str
    seed: int
    per_category: Mapping[str, Overrides] = field(default_factory=dict)
    losses: Mapping[str, FlowLoss] = field(default_factory=dict)
    strategy: ContinualStrategy = field(default_factory=ContinualStrategy)
    returns: Returns = field(default_factory=lambda: Returns({}, "add", seed=0))

    def experts_of(self, task: Task) -> dict[str, tuple[str, ...]]:
        """Return the categories of each expert of a task, by the expert's name."""
        if self.experts == "category" and not task.visit:
            return {category: (category,) for category in task.categories}
        return {task.name: task.categories}

    def loss_of(self, categories: Sequence[str]) -> FlowLoss:
        """Return the loss of an expert with these categories, which have equal overrides."""
        return self.losses.get(categories[0], self.loss)

    def augmentations_of(self, categories: Sequence[str]) -> tuple[str, ...]:
        """Return the flips and rotations of an expert with these categories, which have equal overrides."""
        return AUGMENTATIONS[self.augmentation_of(categories)]

    def augmentation_of(self, categories: Sequence[str]) -> str:
        """Return the augmentation of an expert with these categories, which have equal overrides."""
        return str(self.per_category.get(categories[0], {}).get("augmentation", self.augmentation))
