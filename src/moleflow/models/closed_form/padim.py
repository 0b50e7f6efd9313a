"""PaDiM, with one Gaussian per position of the patch grid.

Reference: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization", ICPR
Workshops 2021.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from moleflow.models.batches import Batches, chunks
from moleflow.models.closed_form.base import ClosedFormModel
from moleflow.models.dynamic_buffers import DynamicBuffers
from moleflow.models.tensor_rule import TensorRule
from moleflow.utils.errors import UserError, check_range
from moleflow.utils.random import generator


class PaDiM(ClosedFormModel):
    """Mahalanobis distance to the training patches at the same grid position.

    Args:
        dim: Channels D of a patch.
        channels: Number C of randomly selected channels, at most D; an expert has about ``H W C^2`` values.
        ridge: Added to the diagonal of each covariance, in units of the channels' mean variance.
        seed: Seed of the channel selection.

    Raises:
        UserError: If an argument is outside its range.

    Examples:
        >>> import torch
        >>> model = PaDiM(dim=8, channels=4)
        >>> _ = model.add_expert("bottle")
        >>> model.fit("bottle", [torch.randn(6, 4, 5, 8)])
        >>> model.patch_scores(torch.randn(2, 4, 5, 8), "bottle").shape
        torch.Size([2, 4, 5])
    """

    def __init__(self, dim: int, channels: int = 100, ridge: float = 0.01, seed: int = 0) -> None:
        count = min(channels, dim)
        super().__init__(mean=TensorRule(("P", count)), whitening=TensorRule(("P", count, count)))
        check_range("model.channels", channels, 1)
        hint = "The covariance of the few patches per position is singular."
        check_range("model.ridge", ridge, 0, hint=hint, low_open=True)
        self.ridge = ridge
        self.channel_indices = torch.randperm(dim, generator=generator(seed, "channels"))[:channels].sort().values

    def compute(self, name: str, features: Iterable[Tensor], image_ids: Tensor) -> dict[str, Tensor]:
        """Return means (HW, C) and inverse Cholesky factors (HW, C, C) of an expert.

        Args:
            name: Name of the expert.
            features: Training patches of the expert in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index of the training image that each entry of the concatenated batches shows.
        """
        mean, scatter = self._moments(features, len(image_ids))
        return self._tensors(mean, scatter / max(1, len(image_ids) - 1))

    def compute_update(
        self, name: str, source: DynamicBuffers, features: Iterable[Tensor], image_ids: Tensor, former: int
    ) -> dict[str, Tensor]:
        """Return means and inverse Cholesky factors of former and further images together, exact up to rounding.

        Reference: Chan et al., "Algorithms for Computing the Sample Variance", The American Statistician 1983.

        Args:
            name: Name of the expert.
            source: The expert of the former images.
            features: Patches of the further images in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index from 0 of the further image that each entry of the concatenated batches shows.
            former: Number of grids of the former images, images times augmentations.
        """
        former_mean, whitening = (source.get_buffer(key).double() for key in ("mean", "whitening"))
        ridged = torch.linalg.inv(whitening.transpose(1, 2) @ whitening)
        level = ridged.diagonal(dim1=1, dim2=2).mean() / (1 + self.ridge)
        covariance = ridged - self.ridge * level * torch.eye(ridged.shape[1]).to(ridged)
        further = len(image_ids)
        mean, scatter = self._moments(features, further)
        difference = (mean - former_mean)[:, :, None]
        scatter = scatter + covariance * max(1, former - 1)
        scatter = scatter + former * further / (former + further) * difference @ difference.transpose(1, 2)
        together = (former * former_mean + further * mean) / (former + further)
        return self._tensors(together, scatter / (former + further - 1))

    def _moments(self, features: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
        """Return mean (HW, C) and scatter (HW, C, C) of the patches of ``count`` grids per position, float64."""
        selected = Batches(lambda: (x[..., self.channel_indices.to(x.device)].flatten(1, 2) for x in features))
        # Chunks (HW, n, C), of which some copies in float64 are in memory.
        parts = Batches(lambda: (chunk.transpose(0, 1).double() for chunk in chunks(selected, copies=8)))
        mean = sum((x.sum(1) for x in parts), torch.zeros(())) / count
        scatter = torch.zeros(())
        for x in parts:
            centered = x - mean[:, None]
            scatter = scatter.to(x) + centered.transpose(1, 2) @ centered
        return mean, scatter

    def _tensors(self, mean: Tensor, covariance: Tensor) -> dict[str, Tensor]:
        """Return the tensors of an expert from means (HW, C) and covariances (HW, C, C) of its positions."""
        eye = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        level = covariance.diagonal(dim1=1, dim2=2).mean() + mean.new_tensor(torch.finfo(torch.float32).tiny)
        factor = torch.linalg.cholesky(covariance + self.ridge * level * eye)
        whitening = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        return {"mean": mean.float(), "whitening": whitening.float()}

    def patch_scores(self, x: Tensor, name: str, image_ids: Tensor | None = None) -> Tensor:
        """Return the Mahalanobis distance of each patch, (B, H, W) float32.

        Args:
            x: Patch features (B, H, W, D) from the backbone.
            name: Name of the expert.
            image_ids: Not used.

        Raises:
            UserError: If the number of grid positions differs from that of the training images.
        """
        expert = self.expert(name)
        mean = expert.get_buffer("mean")
        patches = x.float()[..., self.channel_indices.to(x.device)].flatten(1, 2)
        if patches.shape[1] != len(mean):
            raise UserError(
                f"The image has {patches.shape[1]} patch positions, but expert {name!r} was fitted to {len(mean)}. "
                "Use the transform.size of training."
            )
        white = torch.einsum("pij,bpj->bpi", expert.get_buffer("whitening"), patches - mean)
        scores: Tensor = torch.linalg.vector_norm(white, dim=-1).reshape(x.shape[:3])
        return scores
