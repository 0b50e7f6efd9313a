"""One scale for the scores of all experts: in standard deviations of what each expert says of its training pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from moleflow.scoring import Scoring


@dataclass(frozen=True)
class ScoreScale:
    """Mean and standard deviation of one expert's scores on its training pictures, in that order.

    A picture that was routed to the wrong expert then lies among the others' scores, and one threshold serves all.
    The training pictures are those the expert has learned: new normal pictures score a little above 0.

    Attributes:
        patch: Of patch scores.
        image: Of image scores that are made from standardised patch scores.
    """

    patch: tuple[float, float]
    image: tuple[float, float]

    @classmethod
    def from_training(cls, patch_scores: Tensor, scoring: Scoring) -> Self:
        """Return the scale from the patch scores (N, h, w) of an expert's training pictures."""
        patch = _moments(patch_scores)
        image = scoring.image_scores((patch_scores - patch[0]) / patch[1])
        return cls(patch, _moments(image))

    def patches(self, scores: Tensor) -> Tensor:
        """Return patch scores (..., h, w) on the common scale."""
        return (scores - self.patch[0]) / self.patch[1]

    def images(self, scores: Tensor) -> Tensor:
        """Return image scores (...), made from standardised patches, on the common scale."""
        return (scores - self.image[0]) / self.image[1]

    def state(self) -> dict[str, Tensor]:
        """Return the scale as tensors, for a safetensors file."""
        return {key: torch.tensor(vars(self)[key], dtype=torch.float64) for key in ("patch", "image")}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Return the scale that ``state`` wrote."""
        (a, b), (c, d) = state["patch"].tolist(), state["image"].tolist()
        return cls((a, b), (c, d))


def _moments(values: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation; of values that do not differ the deviation is taken as 1."""
    deviation = float(values.double().std(correction=0))
    return float(values.double().mean()), deviation if deviation > 0 else 1.0
