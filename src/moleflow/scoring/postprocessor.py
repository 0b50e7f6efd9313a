"""Image scores and anomaly maps from patch scores.

Images are processed one by one, each from its own aligned copy: a batched kernel may sum in another order for another
batch size, and an image's score must not depend, to the last bit, on the other images of the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from moleflow.utils.errors import UserError, check_choice, check_range

AGGREGATIONS = ("max", "mean", "top_k", "top_k_percent", "percentile")
SIGMA_UNITS = ("patch", "pixel")
_TRUNCATE = 4.0  # radius of the Gaussian in standard deviations
_MAX_WEIGHTS = 2**25  # of one side of the Gaussian at all pixels of an axis: 256 MB


@dataclass(frozen=True)
class ScorePostprocessor:
    """Computation of image scores and anomaly maps from patch scores.

    Args:
        aggregation: One of max, mean, top_k (mean of the ``top_k`` largest patch scores), top_k_percent (mean of the
            largest share) and percentile (with linear interpolation). It is applied to the patch grid, without
            upsampling, and without smoothing except ``pool``.
        top_k: Number of patches for ``top_k``.
        top_k_percent: Share of the patches in (0, 1] for ``top_k_percent``; at least one patch is used.
        percentile: Quantile in [0, 1] for ``percentile``.
        pool: Odd side of the window in patches over which patch scores are averaged before the aggregation; 1 disables
            the averaging.
        subtract_median: Share in [0, 1] of the image's median patch score that is subtracted before the aggregation.
            It lowers the effect of whole-image changes such as light and pose.
        map_subtract_median: Share in [0, 1] of the image's median patch score that is subtracted from the anomaly map.
            It lowers the scores of defects that fill the image.
        standardize: Whether each expert's scores are standardized by those of its training images.
        map_size: Side, or height and width, of an anomaly map in pixels.
        sigma: Standard deviation of the Gaussian that smooths the map; 0 disables the smoothing.
        sigma_unit: Unit of ``sigma``: ``patch`` for the distance of two patches, so that the smoothing of the product
            does not depend on map size and aspect ratio; or ``pixel`` for pixels of the map.

    Raises:
        UserError: If a value is unknown or outside its range.
    """

    aggregation: str = "top_k"
    top_k: int = 3
    top_k_percent: float = 0.05
    percentile: float = 0.99
    pool: int = 1
    subtract_median: float = 0.0
    map_subtract_median: float = 0.0
    standardize: bool = False
    map_size: int | Sequence[int] = 224
    sigma: float = 4.0
    sigma_unit: str = "pixel"

    def __post_init__(self) -> None:
        check_choice("aggregation", self.aggregation, AGGREGATIONS)
        check_range("top_k", self.top_k, 1)
        check_range("top_k_percent", self.top_k_percent, 0, 1, "It is a share: 5 % is 0.05.", low_open=True)
        check_range("percentile", self.percentile, 0, 1, "The 99th percentile is 0.99.")
        if self.pool < 1 or self.pool % 2 == 0:
            raise UserError(f"pool={self.pool} must be odd and at least 1 (1 disables the averaging).")
        for key in ("subtract_median", "map_subtract_median"):
            check_range(key, getattr(self, key), 0, 1, "It is a share of the image's median patch score.")
        check_range("sigma", self.sigma, 0, hint="0 disables the smoothing.", high_open=True)
        check_choice("sigma_unit", self.sigma_unit, SIGMA_UNITS)
        if len(self.map_shape) != 2 or min(self.map_shape) < 1:
            raise UserError(f"map_size={self.map_size} must be a positive side or a positive height and width.")

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Height and width of an anomaly map in pixels."""
        return (self.map_size,) * 2 if isinstance(self.map_size, int) else tuple(self.map_size)

    def image_scores(self, patch_scores: Tensor) -> Tensor:
        """Return one score per image.

        Args:
            patch_scores: (B, h, w) patch scores, higher for more anomalous patches.

        Returns:
            (B,) float32.

        Raises:
            UserError: If ``top_k`` exceeds the number of patches.
        """
        count = patch_scores.shape[1] * patch_scores.shape[2]
        if self.aggregation == "top_k" and self.top_k > count:
            raise UserError(f"top_k={self.top_k} is more than the {count} patches of an image. Lower top_k.")
        return _map_images(self._image_score, patch_scores, ())

    def anomaly_maps(self, patch_scores: Tensor) -> Tensor:
        """Return one anomaly map per image.

        Patch scores are upsampled bilinearly with aligned corners, then smoothed by a Gaussian that is truncated at 4
        sigma and mirrored at the edges. Both steps are linear and separable, so a map is the product
        rows @ grid @ columns. It is computed in float64 because negative log-likelihoods are large compared with their
        differences, which TF32 would round away.

        Args:
            patch_scores: (B, h, w) patch scores.

        Returns:
            (B, H, W) float32 on the same device, with (H, W) = ``map_shape``.
        """
        rows, columns = (matrix.to(patch_scores.device) for matrix in self.upsampling_matrices(patch_scores.shape[1:]))
        return _map_images(
            lambda grid: rows @ subtract_median(grid, self.map_subtract_median).double() @ columns,
            patch_scores,
            self.map_shape,
        )

    def upsampling_matrices(self, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the float64 matrices (H, h) and (w, W) by whose product ``rows @ grid @ columns`` a map is computed.

        Args:
            grid: Rows h and columns w of the patch grid.

        Raises:
            UserError: If ``sigma`` is too large.
        """
        rows, columns = (
            upsampling_matrix(size, length, self.sigma * (length / size if self.sigma_unit == "patch" else 1.0))
            for size, length in zip(grid, self.map_shape, strict=True)
        )
        return rows, columns.T

    def _image_score(self, grid: Tensor) -> Tensor:
        """Return the image score () of one image's patch scores (h, w) float32."""
        return self._aggregate(self.aggregation_input(grid[None]).flatten())

    def aggregation_input(self, grids: Tensor) -> Tensor:
        """Return patch scores (B, h, w) after median subtraction and average pooling, the input of the aggregation."""
        grids = subtract_median(grids, self.subtract_median)
        return F.avg_pool2d(grids, self.pool, 1, self.pool // 2, count_include_pad=False) if self.pool > 1 else grids

    def _aggregate(self, patches: Tensor) -> Tensor:
        """Return the image score () of an aggregation input (N,) float32."""
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


def subtract_median(grids: Tensor, share: float) -> Tensor:
    """Return patch scores (..., h, w) minus a share of each image's median.

    Of two middle values the lower one is the median. It is selected by ``topk`` because ONNX has no median operator.

    Args:
        grids: (..., h, w) patch scores.
        share: Share of the median in [0, 1].
    """
    if not share:
        return grids
    patches = grids.flatten(-2)
    count = patches.shape[-1]
    return grids - share * patches.topk(count, largest=False).values[..., (count - 1) // 2, None, None]


def _map_images(function: Callable[[Tensor], Tensor], batch: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the results (B, *shape) float32 of a function of each image (h, w) float32 of a batch (B, h, w)."""
    result = batch.new_empty((len(batch), *shape), dtype=torch.float32)
    for i, grid in enumerate(batch.detach()):
        result[i] = function(grid.to(torch.float32, copy=True))
    return result


@lru_cache(maxsize=32)
def upsampling_matrix(size: int, new_size: int, sigma: float) -> Tensor:
    """Return the (new_size, size) float64 matrix that upsamples and smooths one axis.

    Args:
        size: Number of patches along the axis.
        new_size: Number of pixels along the axis.
        sigma: Standard deviation of the Gaussian in pixels; 0 for no smoothing.
    """
    return _gaussian(new_size, sigma) @ interpolation_matrix(size, new_size, align_corners=True)


def interpolation_matrix(size: int, new_size: int, align_corners: bool) -> Tensor:
    """Return the (new_size, size) float64 matrix of linear interpolation along one axis, a transposed view.

    Args:
        size: Number of patches along the axis.
        new_size: Number of values along the axis after interpolation.
        align_corners: Whether the first and the last positions coincide, as in :func:`torch.nn.functional.interpolate`.
    """
    eye = torch.eye(size, dtype=torch.float64)[None]
    return F.interpolate(eye, new_size, mode="linear", align_corners=align_corners)[0].T


def _gaussian(size: int, sigma: float) -> Tensor:
    """Return the (size, size) float64 matrix of a Gaussian, mirrored at the edges (d c b a | a b c d | d c b a)."""
    if sigma == 0:
        return torch.eye(size, dtype=torch.float64)
    radius = int(_TRUNCATE * sigma + 0.5)
    if size * radius > _MAX_WEIGHTS:
        allowed = _MAX_WEIGHTS / size / _TRUNCATE
        raise UserError(
            f"sigma={sigma:g} in pixels of the map must be at most {allowed:g} for a side of {size} pixels."
        )
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma).square())
    weights /= weights.sum()
    source = (torch.arange(size)[:, None] + offsets) % (2 * size)  # a mirrored signal has period 2 x size
    source = torch.minimum(source, 2 * size - 1 - source)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, source, weights.expand(size, -1))
