"""Mixers that blend each patch with its neighbors before the flow."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.models.flow.functional import check_kernel, depthwise
from moleflow.models.flow.lora import zero_linear
from moleflow.utils.errors import check_choice, check_range

TRAINED_MIXERS = ("depthwise_residual", "depthwise", "local_stats", "full")
MIXER_MODES = (*TRAINED_MIXERS, "blur", "none")


class SpatialMixer(nn.Module):
    """Trained blend of each patch with its neighborhood.

    It is shared by all experts and trained on the first task.

    Modes:
        depthwise_residual: ``(1-g) x + g DWConv(x)``; the convolution starts as a mean filter.
        depthwise: ``DWConv(x)`` alone.
        local_stats: ``(1-g) x + g MLP([x, local standard deviation])``; the MLP starts at zero.
        full: ``(1-g) x + g MLP([x, DWConv(x), local standard deviation])``.

    The log-determinant of the flow omits the mixer's Jacobian, as in the first implementation of the method.

    Args:
        dim: Channels D.
        mode: One of the modes above.
        kernel: Odd kernel size.
        generator: Source of the initial weights of the MLP's first layer.

    Raises:
        UserError: If the mode is unknown, or the kernel size is even or not positive.
    """

    def __init__(self, dim: int, mode: str, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        self.mode = check_choice("model.spatial_context_mode", mode, TRAINED_MIXERS)
        self.kernel = check_kernel("model.spatial_context_kernel", kernel)
        if mode != "local_stats":
            self.weight = nn.Parameter(torch.full((dim, 1, kernel, kernel), 1.0 / kernel**2))
            self.bias = nn.Parameter(torch.zeros(dim))
        if mode != "depthwise":
            self.gate = nn.Parameter(torch.tensor(0.5))
        if mode in ("local_stats", "full"):
            inputs = dim * (2 if mode == "local_stats" else 3)
            self.mlp = nn.Sequential(zero_linear(inputs, dim), nn.GELU(), zero_linear(dim, dim))
            bound = inputs**-0.5
            for parameter in self.mlp[0].parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed grid (B, H, W, D) of ``x`` (B, H, W, D)."""
        if self.mode == "depthwise":
            return depthwise(x, self.weight, self.bias)
        if self.mode == "depthwise_residual":
            mixed = depthwise(x, self.weight, self.bias)
        elif self.mode == "local_stats":
            mixed = self.mlp(torch.cat((x, self._deviation(x)), -1))
        else:
            mixed = self.mlp(torch.cat((x, depthwise(x, self.weight, self.bias), self._deviation(x)), -1))
        # Under autocast, `mixed` has half precision.
        return torch.lerp(x, mixed.to(x.dtype), torch.sigmoid(self.gate).to(x.dtype))

    def kernels(self) -> Tensor | None:
        """Return the equivalent kernels (D, k, k), or None for modes with an MLP."""
        if self.mode not in ("depthwise", "depthwise_residual"):
            return None
        kernels = self.weight[:, 0]
        if self.mode == "depthwise":
            return kernels
        identity = torch.zeros_like(kernels)
        identity[:, self.kernel // 2, self.kernel // 2] = 1.0
        return torch.lerp(identity, kernels, torch.sigmoid(self.gate))

    def _deviation(self, x: Tensor) -> Tensor:
        """Return standard deviations over zero-padded neighborhoods, (B, H, W, D)."""
        channels_first = x.permute(0, 3, 1, 2)
        mean = F.avg_pool2d(channels_first, self.kernel, 1, self.kernel // 2)
        square = F.avg_pool2d(channels_first.square(), self.kernel, 1, self.kernel // 2)
        return (square - mean.square()).clamp_min(1e-6).sqrt().permute(0, 2, 3, 1)


class MeanBlur(nn.Module):
    """Blend ``(1-s) x + s mean_k(x)`` of each patch with its neighborhood mean.

    There are no trained parameters. At the border the mean is over the existing patches. The weights sum to 1
    everywhere, constant grids are unchanged, and the blur commutes with every affine map of the channels. As the same
    linear map for all grids, it has a constant Jacobian. A trained mixer has not: it can increase the likelihood by
    contracting its input.

    Args:
        kernel: Odd kernel size k.
        strength: Weight s of the mean, in [0, 1].

    Raises:
        UserError: If an argument is outside its range.
    """

    def __init__(self, kernel: int, strength: float) -> None:
        super().__init__()
        self.kernel = check_kernel("model.spatial_context_kernel", kernel)
        check_range("model.spatial_context_strength", strength, 0, 1, "It is the weight of the mean.")
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        """Return the blurred grid (B, H, W, D) of ``x`` (B, H, W, D)."""
        mean = F.avg_pool2d(x.permute(0, 3, 1, 2), self.kernel, 1, self.kernel // 2, count_include_pad=False)
        return torch.lerp(x, mean.permute(0, 2, 3, 1), self.strength)
