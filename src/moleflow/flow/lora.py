"""Linear layers that all experts share, and the low-rank update that one expert adds to one of them.

Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, equation 3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRankUpdate(nn.Module):
    """What one expert adds to one shared linear layer: ``x -> (1/r) B A x + b``.

    ``B`` and ``b`` start at zero, so a fresh update changes nothing.

    Args:
        in_features: Width of the layer's input.
        out_features: Width of the layer's output.
        rank: Rank r of the update; 0 leaves out the pair (A, B).
        bias: Whether the expert owns a bias.
        generator: Source of the draws of ``A`` (Xavier uniform).
    """

    a: nn.Parameter | None
    b: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = 1.0 / rank if rank else 0.0
        if rank:
            bound = math.sqrt(6.0 / (in_features + rank))
            draw = torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)
            self.a = nn.Parameter(draw)
            self.b = nn.Parameter(torch.zeros(out_features, rank))
        else:
            self.register_parameter("a", None)
            self.register_parameter("b", None)
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features))
        else:
            self.register_parameter("bias", None)


class SharedLinear(nn.Linear):
    """A linear layer of the base, evaluated with or without one expert's update.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        generator: Source of the initial weights, drawn as :class:`torch.nn.Linear` draws them.
    """

    def __init__(self, in_features: int, out_features: int, generator: torch.Generator) -> None:
        with torch.device("meta"):  # the draw below is the only one: the global generator stays untouched
            super().__init__(in_features, out_features)
        bound = 1.0 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound, generator=generator))

    def new_update(self, rank: int, bias: bool, generator: torch.Generator) -> LowRankUpdate:
        """Return a fresh update of this layer's shape."""
        return LowRankUpdate(self.in_features, self.out_features, rank, bias, generator)

    def forward(self, x: Tensor, update: LowRankUpdate | None = None) -> Tensor:
        """Return ``W x + b``, plus the update's part.

        Args:
            x: Input (..., in_features).
            update: One expert's update of this layer, or None for the base alone.
        """
        if update is None:
            return F.linear(x, self.weight, self.bias)
        bias = self.bias if update.bias is None else self.bias + update.bias
        if update.a is None or update.b is None:
            return F.linear(x, self.weight, bias)
        # The update as two thin products costs 3 r (in + out) a row with its gradients, merged it costs in * out for
        # the gradient of the full weight: at D=128 the full weight is the cheaper one, at D=768 the thin products are.
        if 3 * len(update.a) * (self.in_features + self.out_features) > self.in_features * self.out_features:
            return F.linear(x, torch.addmm(self.weight, update.b, update.a, alpha=update.scale), bias)
        return F.linear(x, self.weight, bias) + update.scale * F.linear(F.linear(x, update.a), update.b)

    @torch.no_grad()
    def merge(self, update: LowRankUpdate) -> None:
        """Add the update to the weights for good: one product instead of three at test time."""
        if update.a is not None and update.b is not None:
            self.weight.add_(update.b @ update.a, alpha=update.scale)
        if update.bias is not None:
            self.bias.add_(update.bias)
