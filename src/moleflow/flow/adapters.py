"""Input adapters: what an expert does to the patch grid before the shared flow sees it."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.errors import choice
from moleflow.flow.context import zero_linear
from moleflow.flow.lora import SharedLinear
from moleflow.flow.subnets import Draw

ADAPTERS = ("whitening", "soft_norm", "none")


class InputAdapter(nn.Module):
    """Maps a patch grid (B, H, W, D) to a patch grid (B, H, W, D), patch by patch."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted grid (B, H, W, D) of ``x`` (B, H, W, D)."""


class WhiteningAdapter(InputAdapter):
    """Normalise each patch over its channels, then a bounded scale and offset a channel.

    ``y = gamma * LN(x) + beta`` with ``gamma = 0.5 + 1.5 sigmoid(g)`` in (0.5, 2), ``beta = 2 tanh(b)`` in (-2, 2).

    Args:
        dim: Channels D.
        first: Whether this is the first expert: gamma starts at 0.998, with later ones at 1.25.
    """

    def __init__(self, dim: int, first: bool) -> None:
        super().__init__()
        self.raw_scale = nn.Parameter(torch.full((dim,), -0.7 if first else 0.0))
        self.raw_offset = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted grid; see :class:`InputAdapter`."""
        gamma = 0.5 + 1.5 * torch.sigmoid(self.raw_scale)
        return gamma * F.layer_norm(x, x.shape[-1:]) + 2.0 * torch.tanh(self.raw_offset)


class SoftNormAdapter(InputAdapter):
    """A little layer norm, an unbounded scale and offset, and a gated residual MLP: nearly the identity at the start.

    Args:
        dim: Channels D.
        first: Whether this is the first expert. Only the first blends layer norm in (weight 0.01, learned), and only
            its output is held to ``0.9 x + 0.1 f(x)``.
        draw: Generators by layer name.
    """

    def __init__(self, dim: int, first: bool, draw: Draw) -> None:
        super().__init__()
        self.first = first
        hidden = max(dim // 2, 128)
        if first:
            self.norm_weight = nn.Parameter(torch.ones(dim))
            self.norm_bias = nn.Parameter(torch.zeros(dim))
            self.blend = nn.Parameter(torch.tensor(0.01))
        self.scale = nn.Parameter(torch.ones(dim))
        self.offset = nn.Parameter(torch.zeros(dim))
        self.gate = nn.Parameter(torch.tensor(0.5))
        last = zero_linear(hidden, dim)
        self.mlp = nn.Sequential(
            SharedLinear(dim, hidden, draw("soft_norm_first")),
            nn.GELU(),
            SharedLinear(hidden, hidden, draw("soft_norm_second")),
            nn.GELU(),
            last,
        )
        nn.init.normal_(last.weight, std=0.01, generator=draw("soft_norm_last"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted grid; see :class:`InputAdapter`."""
        normed = x
        if self.first:
            full = F.layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias)
            normed = torch.lerp(x, full, self.blend.clamp(0.0, 1.0))
        scaled = self.scale * normed + self.offset
        adapted = scaled + torch.sigmoid(self.gate) * self.mlp(scaled)
        return torch.lerp(x, adapted, 0.1) if self.first else adapted


class NoAdapter(InputAdapter):
    """The grid as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x


def input_adapter(kind: str, dim: int, first: bool, draw: Draw) -> InputAdapter:
    """Return a fresh adapter.

    Args:
        kind: One of ``whitening``, ``soft_norm``, ``none``.
        dim: Channels D.
        first: Whether it belongs to the first expert.
        draw: Generators by layer name.

    Raises:
        UserError: If the kind is unknown.
    """
    choice("model.adapter", kind, ADAPTERS)
    if kind == "whitening":
        return WhiteningAdapter(dim, first)
    if kind == "soft_norm":
        return SoftNormAdapter(dim, first, draw)
    return NoAdapter()
