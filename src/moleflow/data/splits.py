"""Choice of the training images of a category: validation images, shots, and images of a later task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from moleflow.data.groups import group_indices
from moleflow.data.samples import Sample
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator


@dataclass(frozen=True)
class ValidationSplit:
    """Random split of one category's training images into training and validation images.

    Groups of images (``dataset.group``) are not split: in random order, whole groups become validation images until
    there are at least as many as the amount.

    Attributes:
        amount: Share of validation images, below 1 (at least one image), or their number; 0 for none.
        seed: The run's seed. The split depends on seed and category alone.

    Raises:
        UserError: If the amount is neither a share nor a whole number.
    """

    amount: float
    seed: int

    def __post_init__(self) -> None:
        """Check the amount."""
        number = isinstance(self.amount, int | float)
        if not number or not (0 <= self.amount < 1 or (self.amount >= 1 and float(self.amount).is_integer())):
            raise UserError(
                f"validation={self.amount} must be a share in [0, 1) or a whole number of images per category."
            )

    def __call__(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Return training and validation images, both in the order of the samples.

        Args:
            samples: The training images of one category.

        Raises:
            UserError: If no training image would be left.
        """
        if not self.amount or not samples:
            return list(samples), []
        category = samples[0].category
        count = max(1, round(self.amount * len(samples))) if self.amount < 1 else int(self.amount)
        if count >= len(samples):
            raise UserError(
                f"validation={self.amount} must leave at least one of the {len(samples)} training images of {category}."
            )
        groups = group_indices(samples)
        order = torch.randperm(int(groups.max()) + 1, generator=generator(self.seed, "held out", category)).tolist()
        sizes = torch.bincount(groups)[order].cumsum(0)
        validation = set(order[: int((sizes < count).sum()) + 1])
        if len(validation) == len(order):
            raise UserError(
                f"validation={self.amount} must leave at least one of the {len(order)} groups of {category} for "
                "training."
            )
        return (
            [sample for sample, group in zip(samples, groups.tolist(), strict=True) if group not in validation],
            [sample for sample, group in zip(samples, groups.tolist(), strict=True) if group in validation],
        )


@dataclass(frozen=True)
class Shots:
    """Random choice of a few training images per category, as in few-shot anomaly detection.

    The images with k shots are among those with more shots of the same seed.

    Attributes:
        number: Training images per category.
        seed: The run's seed. The choice depends on seed and category alone.

    Raises:
        UserError: If the number is not a positive whole number.
    """

    number: int
    seed: int

    def __post_init__(self) -> None:
        """Check the number."""
        if not isinstance(self.number, int) or isinstance(self.number, bool) or self.number < 1:
            raise UserError(f"dataset.shots={self.number} must be a positive number of images per category, or null.")

    def __call__(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the shots, in the order of the samples.

        Args:
            samples: The training images of one category, without validation images.

        Raises:
            UserError: If there are fewer images than shots.
        """
        if self.number > len(samples):
            category = samples[0].category if samples else "a category"
            raise UserError(
                f"dataset.shots={self.number} must be at most the number of training images of {category}, "
                f"{len(samples)} without validation images."
            )
        order = torch.randperm(len(samples), generator=generator(self.seed, "shots", samples[0].category)).tolist()
        chosen = set(order[: self.number])
        return [sample for i, sample in enumerate(samples) if i in chosen]


RETURN_ACTIONS = ("add", "replace", "update")
"""Experts of a category that returns; see :class:`Returns`."""


@dataclass(frozen=True)
class Returns:
    """Random choice of the training images with which categories return in a later task.

    Attributes:
        amounts: By category, the share of its training images that come later, below 1, or their number.
        action: ``add``: the later task has a further expert; ``replace``: its expert replaces the first one;
            ``update``: its expert continues the first one, from its tensors and the later images, and replaces it.
        seed: The run's seed. The choice depends on seed and category alone.

    Raises:
        UserError: If an amount is neither a share nor a number of images.
    """

    amounts: Mapping[str, float]
    action: str
    seed: int

    def __post_init__(self) -> None:
        """Check the amounts."""
        for category, amount in self.amounts.items():
            number = isinstance(amount, int | float) and not isinstance(amount, bool)
            if not number or not (0 < amount < 1 or (amount >= 1 and float(amount).is_integer())):
                raise UserError(
                    f"scenario.returning.{category}={amount} must be a share in (0, 1) or a whole number of training "
                    "images that come later."
                )

    def __call__(self, samples: Sequence[Sample], visit: int) -> list[Sample]:
        """Return the training images of one visit of a category, in the order of the samples.

        Args:
            samples: The training images of one category, without validation images.
            visit: 0 for the first task of the category, 1 for the later one.

        Raises:
            UserError: If one of the visits would have no image.
        """
        category = samples[0].category if samples else ""
        if category not in self.amounts:
            return list(samples)
        amount = self.amounts[category]
        count = max(1, round(amount * len(samples))) if amount < 1 else int(amount)
        if count >= len(samples):
            raise UserError(
                f"scenario.returning.{category}={amount} must leave at least one of the {len(samples)} training images "
                "to the first task."
            )
        order = torch.randperm(len(samples), generator=generator(self.seed, "returning", category)).tolist()
        later = set(order[:count])
        return [sample for i, sample in enumerate(samples) if (i in later) == bool(visit)]


def split_training_images(
    samples: Sequence[Sample], validation: ValidationSplit, shots: Shots | None
) -> tuple[list[Sample], list[Sample]]:
    """Return the training and the validation images of one category.

    Args:
        samples: All its training images.
        validation: Choice of the validation images, which does not depend on the shots.
        shots: Choice among the others; None: all of them.

    Raises:
        UserError: If there are fewer training images than validation images or shots.
    """
    training, excluded = validation(samples)
    return training if shots is None else shots(training), excluded
