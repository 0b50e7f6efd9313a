"""One Gaussian a position of the patch grid.

Reference: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization", ICPR
Workshops 2021.
"""

import torch
from torch import Tensor

from moleflow.errors import UserError
from moleflow.randomness import generator
from moleflow.rivals.closed_form import ClosedForm


class PositionGaussian(ClosedForm):
    """Scores the Mahalanobis distance of a patch to what was seen at its place in the grid.

    Args:
        dim: Channels D of a patch.
        channels: Random channels kept, at most D; an expert holds ``H W channels^2`` numbers.
        ridge: Added to the diagonal of each covariance, in units of the channels' mean variance.
        seed: Seed of the choice of channels.

    Raises:
        UserError: If a value is not allowed.
    """

    def __init__(self, dim: int, channels: int = 100, ridge: float = 0.01, seed: int = 0) -> None:
        super().__init__("mean", "whitening")
        if not channels >= 1:
            raise UserError(f"model.channels={channels} must be at least 1.")
        if not ridge > 0:
            raise UserError(f"model.ridge={ridge} must be greater than 0: a position has few patches.")
        self.ridge = ridge
        self.kept = torch.randperm(dim, generator=generator(seed, "channels"))[:channels].sort().values

    def compute(self, name: str, features: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """Return means (HW, C) and inverse Cholesky factors (HW, C, C); see :meth:`ClosedForm.compute`."""
        x = features[..., self.kept.to(features.device)].flatten(1, 2).transpose(0, 1).double()
        mean = x.mean(1)
        centred = x - mean[:, None]
        covariance = centred.transpose(1, 2) @ centred / max(1, x.shape[1] - 1)
        eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
        level = covariance.diagonal(dim1=1, dim2=2).mean() + x.new_tensor(torch.finfo(torch.float32).tiny)
        factor = torch.linalg.cholesky(covariance + self.ridge * level * eye)
        whitening = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        return {"mean": mean.float(), "whitening": whitening.float()}

    def patch_scores(self, x: Tensor, name: str, pictures: Tensor | None = None) -> Tensor:
        """Return distances; see :meth:`PatchModel.patch_scores`.

        Raises:
            UserError: If the grid is not that of the training pictures.
        """
        expert = self.expert(name)
        mean = expert.get_buffer("mean")
        rows = x.float()[..., self.kept.to(x.device)].flatten(1, 2)
        if rows.shape[1] != len(mean):
            raise UserError(f"Expert {name!r} knows {len(mean)} positions, the picture has {rows.shape[1]}.")
        white = torch.einsum("pij,bpj->bpi", expert.get_buffer("whitening"), rows - mean)
        scores: Tensor = torch.linalg.vector_norm(white, dim=-1).reshape(x.shape[:3])
        return scores
