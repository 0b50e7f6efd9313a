"""How the tasks of a run are trained: plain values, and how they are read from the config and checked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from typing import Any

import torch
from omegaconf import DictConfig

from moleflow.continual import Strategy
from moleflow.data.turns import AUGMENTATIONS
from moleflow.errors import UserError, choice
from moleflow.losses import FlowLoss
from moleflow.own_settings import Own, merged, per_category
from moleflow.parts import build_part
from moleflow.training.instantiated import instantiated
from moleflow.values import check_value

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
        augmentation: How training pictures are also turned; see :data:`moleflow.data.turns.AUGMENTATIONS`.
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
    augmentation: str
    held_out: float
    seed: int
    per_category: Mapping[str, Own] = field(default_factory=dict)
    losses: Mapping[str, FlowLoss] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=Strategy)

    def loss_of(self, categories: Sequence[str]) -> FlowLoss:
        """Return the loss of an expert, whose categories have equal settings."""
        return self.losses.get(categories[0], self.loss)

    def turns_of(self, categories: Sequence[str]) -> tuple[str, ...]:
        """Return how the pictures of an expert, whose categories have equal settings, are also turned."""
        own = self.per_category.get(categories[0], {})
        return AUGMENTATIONS[own.get("augmentation", self.augmentation)]


_KINDS = {
    "seed": int,
    "progress": bool,
    "held_out": float,
    "optimizer.lr": float,
    "optimizer.final_lr_ratio": float,
    "optimizer.gradient_clip": float | None,
    "router.oracle": bool,
    "scenario.parallel": bool,
    "features.num_workers": int,
    "features.cache_dir": str | None,
}


def check_values(settings: Mapping[str, Any]) -> None:
    """Make sure of the single values of a configuration that belong to no part of a model.

    Args:
        settings: The configuration, resolved.

    Raises:
        UserError: If a value is of another kind than it must be, or is not allowed.
    """
    given: dict[str, Any] = {key: reduce(getitem, key.split("."), settings) for key in _KINDS}
    for key, kind in _KINDS.items():
        check_value(key, given[key], kind)
    for key in ("seed", "features.num_workers"):
        if given[key] < 0:
            raise UserError(f"{key}={given[key]} must be a whole number of at least 0.")
    if not 0 < given["optimizer.lr"] < math.inf:
        raise UserError(f"optimizer.lr={given['optimizer.lr']} must be greater than 0.")


def task_settings(config: DictConfig, settings: Mapping[str, Any], categories: Sequence[str]) -> TaskSettings:
    """Return how each task is trained.

    Args:
        config: The configuration, for what Hydra instantiates.
        settings: The same, resolved.
        categories: The categories of the run.

    Raises:
        UserError: If a value is not allowed.
    """
    given = per_category(settings, categories)
    whole = {key: settings[key] for key in ("epochs", "batch_size")}
    whole |= {f"per_category.{category}.epochs": own["epochs"] for category, own in given.items() if "epochs" in own}
    for key, value in whole.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{key}={value} must be a whole number of at least 1.")
    optimizer = settings["optimizer"]
    return TaskSettings(
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        experts=choice("scenario.experts", settings["scenario"]["experts"], ("task", "category")),
        loss=build_part("loss", settings["loss"]),
        optimizer=_optimizer(config, float(optimizer["lr"])),
        lr=float(optimizer["lr"]),
        final_lr_ratio=float(optimizer["final_lr_ratio"]),
        on_nonfinite=choice("optimizer.on_nonfinite", optimizer["on_nonfinite"], ("error", "skip")),
        lora_delay=_lora_delay(settings, min(value for key, value in whole.items() if key != "batch_size")),
        augmentation=_augmentation(settings, given),
        held_out=settings["held_out"],
        seed=settings["seed"],
        per_category=given,
        losses={
            category: build_part(f"per_category.{category}.loss", merged(settings["loss"], own, "loss"))
            for category, own in given.items()
        },
        strategy=instantiated("continual", config.continual),
    )


def _optimizer(config: DictConfig, lr: float) -> OptimizerFactory:
    """Return what builds the optimizer, once it has made a step: its arguments are other libraries' to check."""
    key = "optimizer.algorithm"
    factory: OptimizerFactory = instantiated(key, config.optimizer.algorithm)
    weight = torch.nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    try:
        factory([weight], lr=lr).step(lambda: 0.0)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{key} refuses its arguments: {error}. See {config.optimizer.algorithm._target_}.") from error
    return factory


def _augmentation(settings: Mapping[str, Any], given: Mapping[str, Own]) -> str:
    """Return how training pictures are also turned, if that is known here and for every category."""
    for category, own in given.items():
        if "augmentation" in own:
            choice(f"per_category.{category}.augmentation", own["augmentation"], AUGMENTATIONS)
    return choice("augmentation", settings["augmentation"], AUGMENTATIONS)


def _lora_delay(settings: Mapping[str, Any], epochs: int) -> int:
    """Return how long LoRA waits, if that says something of this model and of tasks of so many epochs."""
    delay = settings["optimizer"]["lora_delay"]
    if not isinstance(delay, int) or not 0 <= delay < epochs:
        raise UserError(f"optimizer.lora_delay={delay} must be a number of epochs from 0 to {epochs - 1}.")
    if delay and not settings["model"].get("lora_rank"):
        raise UserError(f"optimizer.lora_delay={delay} holds LoRA back, and this model has none: set it to 0.")
    return delay
