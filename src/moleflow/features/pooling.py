"""PatchCore's patch pooling as fixed convolutions."""

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 9  # positions of a 3 x 3 patch, row-major
_DENSE_LIMIT = 32  # channels a group may span before gathering each bin's own channels is faster (measured)


class PatchPooling(nn.Module):
    """Reduces every layer's 3 x 3 patches to ``dim`` numbers, aligns the layers and averages them.

    As defined (Roth et al., 2022, "Towards Total Recall in Industrial Anomaly Detection", section 3.1): at each
    location the zero-padded 3 x 3 neighbourhood of all ``C`` channels is flattened channel by channel to ``9 C``
    entries, and a 1-D adaptive average reduces these to ``dim`` bins. Layers are brought to the first layer's grid by
    bilinear interpolation (``align_corners=False``) and averaged.

    As computed: both steps are linear and act on different axes, so each layer is one fixed convolution on its own
    grid and only ``dim`` planes are interpolated, not ``9 C``.

    Args:
        channels: Number of channels of each layer, the layer with the wanted grid first.
        dim: Length ``D`` of a patch's vector.

    Shapes:
        One tensor (B, C_i, H_i, W_i) a layer to (B, H_0, W_0, D).
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(_LayerPooling(count, dim) for count in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the patch grid (B, H_0, W_0, D) of the layers' feature maps (B, C_i, H_i, W_i)."""
        pooled: list[Tensor] = [layer(feature_map) for layer, feature_map in zip(self.layers, maps, strict=True)]
        total = pooled[0]
        for later in pooled[1:]:
            total = total + F.interpolate(later, size=total.shape[-2:], mode="bilinear", align_corners=False)
        return (total / len(pooled)).permute(0, 2, 3, 1).contiguous()


class _LayerPooling(nn.Module):
    """One layer's patches to ``dim`` bins: (B, C, H, W) to (B, dim, H, W).

    With ``g = gcd(C, dim)`` the bins repeat every ``C / g`` channels and none crosses that border, so the map is a
    convolution of ``g`` equal groups. Where a group would span many channels, a bin's own few channels are gathered
    instead, and every bin is a group.
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
        # Not persistent: they follow from the two numbers above and belong in no file of weights.
        self.register_buffer("weight", weight.view(dim, span, 3, 3), persistent=False)
        self.register_buffer("index", index, persistent=False)

    def forward(self, feature_map: Tensor) -> Tensor:
        if self.index is not None:
            feature_map = feature_map.index_select(1, self.index)
        return F.conv2d(feature_map, self.weight, padding=1, groups=self.groups)


def _bins(length: int, count: int) -> list[tuple[int, int]]:
    """The half-open ranges that ``adaptive_avg_pool1d`` averages: ``floor(j L / n)`` to ``ceil((j + 1) L / n)``."""
    return [(j * length // count, -(-(j + 1) * length // count)) for j in range(count)]
