"""Standardization of each expert's scores by those of its training images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from moleflow.scoring.postprocessor import ScorePostprocessor


class Moments(NamedTuple):
    """Mean and standard deviation of scores.

    Attributes:
        mean: Mean.
        deviation: Standard deviation, or 1 if all values are equal.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Return the moments of values of any shape."""
        deviation = float(values.double().std(correction=0))
        return cls(float(values.double().mean()), deviation if deviation > 0 else 1.0)

    def standardize(self, values: Tensor) -> Tensor:
        """Return values minus the mean, in standard deviations."""
        return (values - self.mean) / self.deviation

    def state(self) -> Tensor:
        """Return the moments as a tensor (2,) float64, for a safetensors file."""
        return torch.tensor(self, dtype=torch.float64)


@dataclass(frozen=True)
class ScoreStandardizer:
    """Mean and standard deviation of one expert's scores on its training images.

    With standardized scores one threshold serves all experts, and an image that was routed to the wrong expert has a
    score comparable with those of the other images. Because the expert was trained on these images, new normal images
    score slightly above 0.

    Attributes:
        patch: Moments of the patch scores.
        image: Moments of the image scores, which are computed from standardized patch scores.
    """

    patch: Moments
    image: Moments

    @classmethod
    def from_training(cls, patch_scores: Tensor, postprocessor: ScorePostprocessor) -> Self:
        """Return the standardizer of an expert.

        Args:
            patch_scores: (N, h, w) patch scores of the expert's training images.
            postprocessor: Computes image scores from patch scores.
        """
        patch = Moments.of(patch_scores)
        return cls(patch, Moments.of(postprocessor.image_scores(patch.standardize(patch_scores))))

    def patches(self, scores: Tensor) -> Tensor:
        """Return standardized patch scores (..., h, w)."""
        return self.patch.standardize(scores)

    def images(self, scores: Tensor) -> Tensor:
        """Return standardized image scores (...) of image scores computed from standardized patch scores."""
        return self.image.standardize(scores)

    def state(self) -> dict[str, Tensor]:
        """Return the moments as tensors (2,) float64, for a safetensors file."""
        return {"patch": self.patch.state(), "image": self.image.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Return the standardizer of a result of ``state``."""
        return cls(Moments(*state["patch"].tolist()), Moments(*state["image"].tolist()))
