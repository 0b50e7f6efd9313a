"""DIA blocks, the small coupling layers of each expert after the shared base."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.models.flow.functional import affine_step, at_least_float32, split_channels
from moleflow.models.flow.lora import Draw, LoRALinear, zero_linear


class MLP(nn.Module):
    """Three linear layers with ReLU between them; the last layer starts at zero.

    Args:
        in_dim: Width of the input.
        hidden: Width of both hidden layers.
        out_dim: Width of the output.
        name: Prefix of the layer names for ``draw``.
        draw: Generators by layer name.
    """

    def __init__(self, in_dim: int, hidden: int, out_dim: int, name: str, draw: Draw) -> None:
        super().__init__()
        self.first = LoRALinear(in_dim, hidden, draw(f"{name}_first"))
        self.second = LoRALinear(hidden, hidden, draw(f"{name}_second"))
        self.last = zero_linear(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_dim) from ``x`` (..., in_dim)."""
        hidden = F.relu(self.first(x.flatten(0, -2)), inplace=True)
        out: Tensor = self.last(F.relu(self.second(hidden), inplace=True))
        return out.view(*x.shape[:-1], -1)


class DIABlock(nn.Module):
    """Affine coupling without permutation or context, initialized as the identity.

    ``s = clamp * tanh(s_raw / clamp)``, ``active' = active exp(s) + t``. The slope of s at zero is 1, that of the
    base's coupling blocks is 0.19, so DIA blocks respond faster to changes of their weights.

    Args:
        dim: Channels D.
        hidden: Width of the hidden layers of both MLPs.
        clamp: Bound of the log-scale.
        flip: Whether the second half is the passive one.
        draw: Generators by layer name.
    """

    def __init__(self, dim: int, hidden: int, clamp: float, flip: bool, draw: Draw) -> None:
        super().__init__()
        self.cut = dim // 2
        self.clamp = clamp
        self.flip = flip
        passive, active = (dim - self.cut, self.cut) if flip else (self.cut, dim - self.cut)
        self.scale = MLP(passive, hidden, active, "scale", draw)
        self.shift = MLP(passive, hidden, active, "shift", draw)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform a grid.

        Args:
            x: Grid (B, H, W, D).

        Returns:
            The transformed grid (B, H, W, D) and the log-determinant per patch (B, H, W), float32.
        """
        passive, active = self._split(x)
        raw_scale, raw_shift = self.scale(passive), self.shift(passive)
        transformed, logdet = affine_step(active, raw_scale, raw_shift, self.clamp, 1 / self.clamp, 1.0)
        return self._concatenate(passive, transformed), logdet

    def inverse(self, y: Tensor) -> Tensor:
        """Return the grid that :meth:`forward` maps to ``y``, for testing and sampling.

        Args:
            y: Grid (B, H, W, D).
        """
        passive, active = self._split(y)
        scale = self.clamp * torch.tanh(at_least_float32(self.scale(passive)) / self.clamp)
        return self._concatenate(passive, (active - self.shift(passive)) * (-scale).exp())

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = split_channels(x, self.cut)
        return (second, first) if self.flip else (first, second)

    def _concatenate(self, passive: Tensor, active: Tensor) -> Tensor:
        return torch.cat((active, passive) if self.flip else (passive, active), -1)


def dia_width(dim: int, hidden_ratio: float) -> int:
    """Return the hidden width of the MLPs in a DIA block, at least 1.

    Args:
        dim: Channels D.
        hidden_ratio: Hidden width as a fraction of D.
    """
    return max(1, math.floor(dim * hidden_ratio))
