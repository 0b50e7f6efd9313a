"""Joining of the layers of a CNN to one patch feature: the patch pooling of PatchCore, and plain concatenation."""

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 9  # positions of a 3 x 3 patch, row-major
_DENSE_LIMIT = 32  # channels per group above which gathering the channels of each bin is faster (measured)


class PatchPooling(nn.Module):
    """Mean over layers of the 3 x 3 patches of feature maps, each reduced to ``dim`` values.

    Definition (Roth et al., 2022, "Towards Total Recall in Industrial Anomaly Detection", section 3.1): at each
    location, the zero-padded 3 x 3 neighborhood of all ``C`` channels is flattened channel by channel to ``9 C``
    entries, which a 1-D adaptive average reduces to ``dim`` bins. All layers are resized to the grid of the first one
    by bilinear interpolation (``align_corners=False``) and averaged.

    Computation: both steps are linear and act on different axes. Each layer is therefore one fixed convolution on its
    grid, and only ``dim`` planes are interpolated instead of ``9 C``.

    Args:
        channels: Number of channels of each layer; the first layer determines the grid.
        dim: Length ``D`` of a patch feature.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(_LayerPooling(count, dim) for count in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the patch grid (B, H_0, W_0, D) of one feature map (B, C_i, H_i, W_i) per layer."""
        pooled: list[Tensor] = [layer(feature_map) for layer, feature_map in zip(self.layers, maps, strict=True)]
        total = pooled[0]
        for later in pooled[1:]:
            total = total + F.interpolate(later, size=total.shape[-2:], mode="bilinear", align_corners=False)
        return (total / len(pooled)).permute(0, 2, 3, 1).contiguous()


class LayerConcatenation(nn.Module):
    """Concatenation of the channels of all layers, each averaged over 3 x 3 patches.

    The average is zero-padded as in :class:`PatchPooling`. All layers are resized to the grid of the first one by
    bilinear interpolation (``align_corners=False``).
    """

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the patch grid (B, H_0, W_0, sum of C_i) of one feature map (B, C_i, H_i, W_i) per layer."""
        size = maps[0].shape[-2:]
        averages = [F.avg_pool2d(feature_map, 3, stride=1, padding=1) for feature_map in maps]
        resized = [
            average
            if average.shape[-2:] == size
            else F.interpolate(average, size=size, mode="bilinear", align_corners=False)
            for average in averages
        ]
        return torch.cat(resized, 1).permute(0, 2, 3, 1).contiguous()


class _LayerPooling(nn.Module):
    """Reduction of the patches of one layer (B, C, H, W) to ``dim`` bins (B, dim, H, W).

    With ``g = gcd(C, dim)`` the bins repeat every ``C / g`` channels and none crosses that border, so that the
    reduction is a convolution of ``g`` equal groups. Where a group would have many channels, the few channels of each
    bin are gathered instead, and each bin is a group.
    """

    weight: Tensor
    index: Tensor | None

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        bins = _bins(channels * KERNEL, dim)
        groups = gcd(channels, dim)
        span = channels // groups
        index = None
        if span <= _DENSE_LIMIT:
            weight = torch.zeros(dim // groups, span * KERNEL)
            for row, (start, end) in zip(weight, bins, strict=False):
                row[start:end] = 1 / (end - start)
            weight = weight.repeat(groups, 1)
        else:
            span = max((end - 1) // KERNEL - start // KERNEL + 1 for start, end in bins)
            firsts = [min(start // KERNEL, channels - span) for start, _ in bins]
            weight = torch.zeros(dim, span * KERNEL)
            for row, first, (start, end) in zip(weight, firsts, bins, strict=True):
                row[start - first * KERNEL : end - first * KERNEL] = 1 / (end - start)
            index = (torch.tensor(firsts)[:, None] + torch.arange(span)).flatten()
            groups = dim
        self.groups = groups
        # Not persistent: both follow from the arguments.
        self.register_buffer("weight", weight.view(dim, span, 3, 3), persistent=False)
        self.register_buffer("index", index, persistent=False)

    def forward(self, feature_map: Tensor) -> Tensor:
        if self.index is not None:
            feature_map = feature_map.index_select(1, self.index)
        return F.conv2d(feature_map, self.weight, padding=1, groups=self.groups)


def _bins(length: int, count: int) -> list[tuple[int, int]]:
    """Return the half-open ranges of ``adaptive_avg_pool1d``: ``floor(j L / n)`` to ``ceil((j + 1) L / n)``."""
    return [(j * length // count, -(-(j + 1) * length // count)) for j in range(count)]
