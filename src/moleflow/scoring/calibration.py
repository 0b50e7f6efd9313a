"""Standardization of each expert's scores by those of its training images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from moleflow.scoring.postprocessor import ScorePostprocessor


@dataclass(frozen=True)
class ScoreStandardizer:
    """Mean and standard deviation of one expert's scores on its training images.

    With standardized scores one threshold serves all experts, and an image that was routed to the wrong expert has a
    score comparable with those of the other images. Because the expert was trained on these images, new normal images
    score slightly above 0.

    Attributes:
        patch: Mean and standard deviation of the patch scores.
        image: Mean and standard deviation of the image scores, which are computed from standardized patch scores.
    """

    patch: tuple[float, float]
    image: tuple[float, float]

    @classmethod
    def from_training(cls, patch_scores: Tensor, postprocessor: ScorePostprocessor) -> Self:
        """Return the standardizer of an expert.

        Args:
            patch_scores: (N, h, w) patch scores of the expert's training images.
            postprocessor: Computes image scores from patch scores.
        """
        patch = _moments(patch_scores)
        image = postprocessor.image_scores((patch_scores - patch[0]) / patch[1])
        return cls(patch, _moments(image))

    def patches(self, scores: Tensor) -> Tensor:
        """Return standardized patch scores (..., h, w)."""
        return (scores - self.patch[0]) / self.patch[1]

    def images(self, scores: Tensor) -> Tensor:
        """Return standardized image scores (...) of image scores computed from standardized patch scores."""
        return (scores - self.image[0]) / self.image[1]

    def state(self) -> dict[str, Tensor]:
        """Return the moments as tensors (2,) float64, for a safetensors file."""
        return {key: torch.tensor(vars(self)[key], dtype=torch.float64) for key in ("patch", "image")}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Return the standardizer of a result of ``state``."""
        (patch_mean, patch_std), (image_mean, image_std) = state["patch"].tolist(), state["image"].tolist()
        return cls((patch_mean, patch_std), (image_mean, image_std))


def _moments(values: Tensor) -> tuple[float, float]:
    """Return the mean and the standard deviation, or a deviation of 1 if all values are equal."""
    deviation = float(values.double().std(correction=0))
    return float(values.double().mean()), deviation if deviation > 0 else 1.0
