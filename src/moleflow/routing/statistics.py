"""What the router remembers of a category: how many pictures, their mean, and how they scatter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Sufficient statistics of a set of image features; sets merge exactly."""

    count: int
    """Number of pictures N."""
    mean: Tensor
    """(D,) float64."""
    scatter: Tensor
    """(D, D) float64: sum over pictures of (f - mean)(f - mean)^T."""

    @classmethod
    def from_features(cls, features: Tensor) -> Self:
        """Return the statistics of features (N, D), on their device.

        Raises:
            ValueError: If there is no picture or a feature is not finite.
        """
        if features.ndim != 2 or not len(features):
            raise ValueError(f"Features must be (N, D) with at least one picture, not {tuple(features.shape)}.")
        values = features.detach().double()
        if not bool(values.isfinite().all()):
            raise ValueError("A feature is not finite, so the category has no statistics.")
        mean = values.mean(dim=0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> Self:
        """Return the statistics of both sets together.

        Reference: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
        COMPSTAT 1982.
        """
        count = self.count + other.count
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.count * other.count / count)
        return type(self)(count, mean, scatter)

    def state(self) -> dict[str, Tensor]:
        """Return the statistics as tensors, for a safetensors file."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Return the statistics that ``state`` wrote."""
        return cls(int(state["count"]), state["mean"], state["scatter"])
