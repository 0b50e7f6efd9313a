"""PaDiM, with one Gaussian per position of the patch grid.

Reference: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization", ICPR
Workshops 2021.
"""

import torch
from torch import Tensor

from moleflow.models.closed_form.base import ClosedFormModel
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

    def compute(self, name: str, features: Tensor, image_ids: Tensor) -> dict[str, Tensor]:
        """Return means (HW, C) and inverse Cholesky factors (HW, C, C) of an expert.

        Args:
            name: Name of the expert.
            features: All training patches of the expert (N, H, W, D).
            image_ids: Not used.
        """
        x = features[..., self.channel_indices.to(features.device)].flatten(1, 2).transpose(0, 1).double()
        mean = x.mean(1)
        centered = x - mean[:, None]
        covariance = centered.transpose(1, 2) @ centered / max(1, x.shape[1] - 1)
        eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
        level = covariance.diagonal(dim1=1, dim2=2).mean() + x.new_tensor(torch.finfo(torch.float32).tiny)
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
