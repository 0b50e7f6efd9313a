"""Fusion of the patch scores of several feature sets into one score per patch."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from moleflow.scoring.calibration import Moments
from moleflow.scoring.postprocessor import interpolation_matrix


class ScoreFusion(nn.Module):
    """Weighted mean of the standardized patch scores of one expert's feature sets, on the finest patch grid.

    Patch scores s_k on grids (h_k, w_k) become ``sum_k w_k R_k((s_k - m_k) / d_k) / sum_k w_k``, with mean m_k and
    standard deviation d_k of the leave-one-image-out scores of the training images. R_k resamples bilinearly with
    half-pixel centers to ``grid_shape``. A fused score is a weighted mean of standard deviations above the mean of the
    training patches.

    Args:
        moments: Moments of the training scores by feature set.
        weights: Weights by feature set, positive.
        grids: Rows and columns (h_k, w_k) of the patch grids by feature set.
    """

    def __init__(
        self, moments: Mapping[str, Moments], weights: Mapping[str, float], grids: Mapping[str, tuple[int, int]]
    ) -> None:
        super().__init__()
        self.moments = dict(moments)
        self.grid_shape = finest_grid(list(grids.values()))
        total = sum(weights[name] for name in moments)
        self.shares = {name: weights[name] / total for name in moments}
        for i, name in enumerate(moments):
            for axis, label in enumerate(("rows", "columns")):
                matrix = resampling_matrix(grids[name][axis], self.grid_shape[axis])
                self.register_buffer(f"{label}{i}", matrix if axis == 0 else matrix.T.contiguous())

    def forward(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Return the fused patch scores (B, H, W) float32, with (H, W) = ``grid_shape``.

        Args:
            scores: Patch scores (B, h_k, w_k) by feature set.
        """
        parts = [
            self.shares[name]
            * (
                self.get_buffer(f"rows{i}")
                @ moments.standardize(scores[name].double())
                @ self.get_buffer(f"columns{i}")
            )
            for i, (name, moments) in enumerate(self.moments.items())
        ]
        return torch.stack(parts).sum(0).float()


def finest_grid(grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the largest number of rows and the largest number of columns of some patch grids."""
    return max(rows for rows, _ in grids), max(columns for _, columns in grids)


@lru_cache(maxsize=64)
def resampling_matrix(size: int, new_size: int) -> Tensor:
    """Return the (new_size, size) float64 matrix of linear interpolation along one axis, with half-pixel centers."""
    return interpolation_matrix(size, new_size, align_corners=False).contiguous()
