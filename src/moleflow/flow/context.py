"""What a patch is told of its neighbours: the scale context inside a coupling block and the mixer before the flow."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.errors import UserError, choice

LEARNED_MIXERS = ("depthwise_residual", "depthwise", "local_stats", "full")
MIXER_MODES = (*LEARNED_MIXERS, "blur", "none")


def check_kernel(key: str, kernel: int) -> int:
    """Return an odd, positive kernel size.

    Raises:
        UserError: If the size is even or not positive: such a kernel has no centre and would change the grid.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise UserError(f"{key}={kernel} has no centre patch. Use an odd size: {max(kernel - 1, 1)} or {kernel + 1}.")
    return kernel


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve each channel of a grid by itself, zero padded to the same size.

    Args:
        x: Grid (B, H, W, C); its memory is what a convolution calls channels-last.
        weight: Kernels (C, 1, k, k).
        bias: (C,) or None.
    """
    out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return out.permute(0, 2, 3, 1)


class ScaleContext(nn.Module):
    """A bounded look at the neighbourhood for the scale tower: ``alpha * DWConv_k(x)``, zero at the start.

    Args:
        dim: Channels C of the passive half.
        kernel: Odd kernel size k.
        max_alpha: Upper bound of alpha = max_alpha * sigmoid(p); p starts at 0.
    """

    def __init__(self, dim: int, kernel: int, max_alpha: float = 0.2) -> None:
        super().__init__()
        check_kernel("scale_context_kernel", kernel)
        self.max_alpha = max_alpha
        self.weight = nn.Parameter(torch.zeros(dim, 1, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the context (B, H, W, C) of the grid ``x`` (B, H, W, C)."""
        alpha = self.max_alpha * torch.sigmoid(self.gate)
        return depthwise(x, alpha * self.weight, alpha * self.bias)  # sooner the few weights than the whole grid


class SpatialMixer(nn.Module):
    """Blend each patch with its neighbourhood before the flow; shared, learned on the first task.

    Modes:
        depthwise_residual: ``(1-g) x + g DWConv(x)``; the convolution starts as a mean filter.
        depthwise: ``DWConv(x)`` alone.
        local_stats: ``(1-g) x + g MLP([x, local standard deviation])``; the MLP starts at zero.
        full: ``(1-g) x + g MLP([x, DWConv(x), local standard deviation])``.

    Its Jacobian is not part of the flow's log-determinant, as in the method's first implementation.

    Args:
        dim: Channels D.
        mode: One of the modes above.
        kernel: Odd kernel size.
        generator: Source of the MLP's first layer.
    """

    def __init__(self, dim: int, mode: str, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        self.mode = choice("spatial_context_mode", mode, LEARNED_MIXERS)
        self.kernel = check_kernel("spatial_context_kernel", kernel)
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
        return torch.lerp(x, mixed.to(x.dtype), torch.sigmoid(self.gate).to(x.dtype))  # autocast makes the mix half

    def kernels(self) -> Tensor | None:
        """Return the convolution that the mixer is, (D, k, k); None where it is none."""
        if self.mode not in ("depthwise", "depthwise_residual"):
            return None
        kernels = self.weight[:, 0]
        if self.mode == "depthwise":
            return kernels
        itself = torch.zeros_like(kernels)
        itself[:, self.kernel // 2, self.kernel // 2] = 1.0
        return torch.lerp(itself, kernels, torch.sigmoid(self.gate))

    def _deviation(self, x: Tensor) -> Tensor:
        """Standard deviation of each channel over the zero-padded neighbourhood, (B, H, W, D)."""
        channels_first = x.permute(0, 3, 1, 2)
        mean = F.avg_pool2d(channels_first, self.kernel, 1, self.kernel // 2)
        square = F.avg_pool2d(channels_first.square(), self.kernel, 1, self.kernel // 2)
        return (square - mean.square()).clamp_min(1e-6).sqrt().permute(0, 2, 3, 1)


class Blur(nn.Module):
    """Blend each patch with the mean of its neighbourhood: ``(1-s) x + s mean_k(x)``, nothing learned.

    At the border the mean is over the patches that exist, so the weights sum to 1 everywhere, a constant grid stays as
    it is, and the blur commutes with every affine map of the channels. It is the same linear map for all grids: its
    Jacobian is a constant, which a learned mixer's is not (that one lowers the likelihood's bound by contracting).

    Args:
        kernel: Odd kernel size k.
        strength: Weight s of the mean, in [0, 1].

    Raises:
        UserError: If a value is not allowed.
    """

    def __init__(self, kernel: int, strength: float) -> None:
        super().__init__()
        self.kernel = check_kernel("spatial_context_kernel", kernel)
        if not 0 <= strength <= 1:
            raise UserError(f"spatial_context_strength={strength} must lie in [0, 1]: it is the weight of a mean.")
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        """Return the blurred grid (B, H, W, D) of ``x`` (B, H, W, D)."""
        mean = F.avg_pool2d(x.permute(0, 3, 1, 2), self.kernel, 1, self.kernel // 2, count_include_pad=False)
        return torch.lerp(x, mean.permute(0, 2, 3, 1), self.strength)


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer that starts at zero and draws nothing."""
    with torch.device("meta"):
        layer = nn.Linear(in_features, out_features)
    layer.weight = nn.Parameter(torch.zeros(out_features, in_features))
    layer.bias = nn.Parameter(torch.zeros(out_features))
    return layer
