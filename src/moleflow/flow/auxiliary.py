"""Auxiliary coupling blocks: small coupling layers after the flow that one expert owns ("DIA")."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.flow.affine import affine_step, at_least_float32, split_channels
from moleflow.flow.context import zero_linear
from moleflow.flow.lora import SharedLinear
from moleflow.flow.subnets import Draw


class Tower(nn.Module):
    """Three linear layers with ReLU between; the last one starts at zero.

    Args:
        in_dim: Width of the input.
        hidden: Width of both hidden layers.
        out_dim: Width of the output.
        name: Prefix of the generators' names.
        draw: Generators by layer name.
    """

    def __init__(self, in_dim: int, hidden: int, out_dim: int, name: str, draw: Draw) -> None:
        super().__init__()
        self.first = SharedLinear(in_dim, hidden, draw(f"{name}_first"))
        self.second = SharedLinear(hidden, hidden, draw(f"{name}_second"))
        self.last = zero_linear(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_dim) from ``x`` (..., in_dim)."""
        hidden = F.relu(self.first(x.flatten(0, -2)), inplace=True)
        out: Tensor = self.last(F.relu(self.second(hidden), inplace=True))
        return out.view(*x.shape[:-1], -1)


class AuxiliaryCoupling(nn.Module):
    """Affine coupling without permutation or context; the identity at the start.

    ``s = clamp * tanh(s_raw / clamp)``, ``active' = active exp(s) + t``. Its slope at zero is 1, where the base's
    blocks have 0.19: it answers faster to its weights.

    Args:
        dim: Channels D.
        hidden: Width of the towers' hidden layers.
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
        self.scale = Tower(passive, hidden, active, "scale", draw)
        self.shift = Tower(passive, hidden, active, "shift", draw)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = split_channels(x, self.cut)
        return (second, first) if self.flip else (first, second)

    def _join(self, passive: Tensor, active: Tensor) -> Tensor:
        return torch.cat((active, passive) if self.flip else (passive, active), -1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transformed grid (B, H, W, D) and each patch's log-determinant (B, H, W), float32."""
        passive, active = self._split(x)
        raw_scale, raw_shift = self.scale(passive), self.shift(passive)
        transformed, logdet = affine_step(active, raw_scale, raw_shift, self.clamp, 1 / self.clamp, 1.0)
        return self._join(passive, transformed), logdet

    def inverse(self, y: Tensor) -> Tensor:
        """Return the grid that :meth:`forward` maps to ``y`` (B, H, W, D)."""
        passive, active = self._split(y)
        scale = self.clamp * torch.tanh(at_least_float32(self.scale(passive)) / self.clamp)
        return self._join(passive, (active - self.shift(passive)) * (-scale).exp())


def auxiliary_width(dim: int, hidden_ratio: float) -> int:
    """Return the towers' hidden width, at least 1."""
    return max(1, math.floor(dim * hidden_ratio))
