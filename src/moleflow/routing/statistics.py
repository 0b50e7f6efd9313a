"""Sufficient statistics of the image features of one expert."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Count, mean and scatter of a set of image features.

    The scatter matrix of N images has rank min(N, D) at most, so it is stored as rows with the same scatter: the
    features themselves if there are at most D, else D rows of a QR decomposition. With D = 768 and 200 images the rows
    need 0.6 MB, and no memory if the features are stored anyway; the matrix would need 4.7 MB.
    """

    count: int
    """Number of images N."""
    mean: Tensor
    """(D,) float64."""
    rows: Tensor
    """(R, D), R <= D, with the same scatter about ``mean`` as the images. In the dtype of the features, or float64."""

    @classmethod
    def from_features(cls, features: Tensor) -> Self:
        """Return the statistics of features (N, D), on their device.

        Up to D features are referenced, not copied.

        Raises:
            ValueError: If there is no image or a feature is not finite.
        """
        if features.ndim != 2 or not len(features):
            raise ValueError(f"Features must be (N, D) with at least one image, not {tuple(features.shape)}.")
        values = features.detach().double()
        if not bool(values.isfinite().all()):
            raise ValueError("A feature is not finite, so the expert has no statistics.")
        mean = values.mean(dim=0)
        if len(values) <= len(mean):
            return cls(len(values), mean, features.detach())
        return cls(len(values), mean, mean + torch.linalg.qr(values - mean, mode="r").R.contiguous())

    @property
    def centered(self) -> Tensor:
        """(R, D) float64: ``rows`` minus the mean, a square root of the scatter. Computed at each access."""
        return self.rows.double() - self.mean

    @property
    def scatter(self) -> Tensor:
        """(D, D) float64: sum over images of (f - mean)(f - mean)^T. Computed at each access."""
        centered = self.centered
        return centered.T @ centered
