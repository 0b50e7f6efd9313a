"""From patch scores to one score a picture and one anomaly map a picture.

Pictures are handled one by one, each from its own aligned copy: a batched kernel may choose another order of summation
for another batch size, and a picture's score must not depend, to the last bit, on what else is in the batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow.errors import UserError, choice

AGGREGATIONS = ("max", "mean", "top_k", "top_k_percent", "percentile")
_TRUNCATE = 4.0  # radius of the Gaussian in standard deviations


@dataclass(frozen=True)
class Scoring:
    """How patch scores become image scores and anomaly maps.

    Args:
        aggregation: One of max, mean, top_k (mean of the ``top_k`` largest patches), top_k_percent (mean of the largest
            share) and percentile (linear interpolation). It sees the patch grid: no upsampling, no smoothing but
            ``pool``.
        top_k: Number of patches for ``top_k``.
        top_k_percent: Share of the patches in (0, 1] for ``top_k_percent``; at least one patch is taken.
        percentile: Quantile in [0, 1] for ``percentile``.
        pool: Odd side of the window over which patch scores are averaged before the aggregation; 1 leaves them raw.
        centre: Share in [0, 1] of the picture's median patch score that is taken off its image score: what raises the
            whole picture (light, pose) then counts less.
        map_centre: The same for the anomaly map. Costs where defects fill the picture.
        standardise: Whether each expert's scores are standardised by those of its training pictures.
        map_size: Side, or height and width, of an anomaly map in pixels.
        sigma: Standard deviation of the Gaussian in pixels of the map; 0 leaves the map unsmoothed.

    Raises:
        UserError: If a value is unknown or outside its range.
    """

    aggregation: str = "top_k"
    top_k: int = 3
    top_k_percent: float = 0.05
    percentile: float = 0.99
    pool: int = 1
    centre: float = 0.0
    map_centre: float = 0.0
    standardise: bool = False
    map_size: int | Sequence[int] = 224
    sigma: float = 4.0

    def __post_init__(self) -> None:
        choice("aggregation", self.aggregation, AGGREGATIONS)
        if self.top_k < 1:
            raise UserError(f"top_k={self.top_k} must be at least 1.")
        if not 0 < self.top_k_percent <= 1:
            raise UserError(f"top_k_percent={self.top_k_percent} must lie in (0, 1]: it is a share, so 5 % is 0.05.")
        if not 0 <= self.percentile <= 1:
            raise UserError(f"percentile={self.percentile} must lie in [0, 1]: the 99th is 0.99.")
        if self.pool < 1 or self.pool % 2 == 0:
            raise UserError(f"pool={self.pool} must be odd and at least 1 (1 leaves the patches as they are).")
        for key, share in (("centre", self.centre), ("map_centre", self.map_centre)):
            if not 0 <= share <= 1:
                raise UserError(f"{key}={share} must lie in [0, 1]: it is a share of the picture's median.")
        if not 0 <= self.sigma < math.inf:
            raise UserError(f"sigma={self.sigma} must be at least 0 (0 leaves the map unsmoothed).")
        if len(self.map_shape) != 2 or min(self.map_shape) < 1:
            raise UserError(f"map_size={self.map_size} must be one positive side or a positive height and width.")

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Height and width of an anomaly map in pixels."""
        return (self.map_size,) * 2 if isinstance(self.map_size, int) else tuple(self.map_size)

    def image_scores(self, patch_scores: Tensor) -> Tensor:
        """Return one score a picture.

        Args:
            patch_scores: (B, h, w) scores, higher for more anomalous.

        Returns:
            (B,) float32.

        Raises:
            UserError: If ``top_k`` exceeds the number of patches.
        """
        count = patch_scores.shape[1] * patch_scores.shape[2]
        if self.aggregation == "top_k" and self.top_k > count:
            raise UserError(f"top_k={self.top_k} is more than the {count} patches of a picture. Lower top_k.")
        return _one_by_one(self._image_score, patch_scores, ())

    def anomaly_maps(self, patch_scores: Tensor) -> Tensor:
        """Return one map a picture: bilinear upsampling (corners aligned), then a Gaussian (edges mirrored, 4 sigma).

        Both steps are linear and separable, so a map is one product rows @ grid @ columns, in float64 because negative
        log-likelihoods are large beside their differences (and TF32 would eat those).

        Args:
            patch_scores: (B, h, w) scores.

        Returns:
            (B, H, W) float32 on the same device, with (H, W) = ``map_shape``.
        """
        height, width = self.map_shape
        rows = spread(patch_scores.shape[1], height, self.sigma).to(patch_scores.device)
        columns = spread(patch_scores.shape[2], width, self.sigma).to(patch_scores.device).T
        return _one_by_one(
            lambda grid: rows @ centred(grid, self.map_centre).double() @ columns, patch_scores, (height, width)
        )

    def _image_score(self, grid: Tensor) -> Tensor:
        """Return the score () of one picture's patches (h, w) float32."""
        return self._aggregate(self.prepared(grid[None]).flatten())

    def prepared(self, grids: Tensor) -> Tensor:
        """Return what the aggregation sees of patch scores (B, h, w): each picture centred, then pooled."""
        level = centred(grids, self.centre)
        return F.avg_pool2d(level, self.pool, 1, self.pool // 2, count_include_pad=False) if self.pool > 1 else level

    def _aggregate(self, patches: Tensor) -> Tensor:
        """Return the score () of one picture's patches (N,) float32."""
        match self.aggregation:
            case "max":
                return patches.amax()
            case "mean":
                return patches.mean()
            case "top_k":
                return patches.topk(self.top_k).values.mean()
            case "top_k_percent":
                return patches.topk(max(1, int(len(patches) * self.top_k_percent))).values.mean()
            case _:
                return patches.quantile(self.percentile)


def centred(grids: Tensor, share: float) -> Tensor:
    """Return patch scores (..., h, w) less a share of each picture's median, of two middle ones the lower.

    Taken from the sorted scores: ONNX has no operator for a median.
    """
    if not share:
        return grids
    patches = grids.flatten(-2)
    count = patches.shape[-1]
    return grids - share * patches.topk(count, largest=False).values[..., (count - 1) // 2, None, None]


def _one_by_one(function: Callable[[Tensor], Tensor], batch: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ``function`` of each picture (h, w) float32 of a batch (B, h, w), as (B, *shape) float32."""
    result = batch.new_empty((len(batch), *shape), dtype=torch.float32)
    for i, grid in enumerate(batch.detach()):
        result[i] = function(grid.to(torch.float32, copy=True))
    return result


@lru_cache(maxsize=32)
def spread(size: int, new_size: int, sigma: float) -> Tensor:
    """Return the (new_size, size) float64 matrix that upsamples one axis and smooths it."""
    corners = F.interpolate(torch.eye(size, dtype=torch.float64)[None], new_size, mode="linear", align_corners=True)
    return _gaussian(new_size, sigma) @ corners[0].T


def _gaussian(size: int, sigma: float) -> Tensor:
    """Return the (size, size) float64 matrix of a Gaussian whose edges mirror (d c b a | a b c d | d c b a)."""
    if sigma == 0:
        return torch.eye(size, dtype=torch.float64)
    radius = int(_TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma).square())
    weights /= weights.sum()
    source = (torch.arange(size)[:, None] + offsets) % (2 * size)  # mirrored signals repeat after 2 x size
    source = torch.minimum(source, 2 * size - 1 - source)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, source, weights.expand(size, -1))
