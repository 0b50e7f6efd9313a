"""Split of the training images of a category into training and validation images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moleflow.data.samples import Sample
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator


@dataclass(frozen=True)
class ValidationSplit:
    """Random split of one category's training images into training and validation images.

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
        order = torch.randperm(len(samples), generator=generator(self.seed, "held out", category)).tolist()
        validation = set(order[:count])
        return (
            [sample for i, sample in enumerate(samples) if i not in validation],
            [sample for i, sample in enumerate(samples) if i in validation],
        )
