"""Linear layers that all experts share, and the low-rank update that one expert adds to one of them.

Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, equation 3.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _LowRankGradient(torch.autograd.Function):
    """Leave ``y = x (W + (1/r) B A)^T`` as it is and give A and B the gradients that they have in it.

    For a frozen W: with ``g = dL/dy`` these are ``dB = g^T (x A^T) / r`` and ``dA = (g B)^T x / r``, four thin
    products, where automatic differentiation would form the gradient of the full weight. That of x needs no part here:
    the product with the merged weight has it.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, a, b)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        x, a, b = ctx.saved_tensors
        g = grads[0].flatten(0, -2)
        x, thin_a, thin_b = x.flatten(0, -2).to(g.dtype), a.to(g.dtype), b.to(g.dtype)
        grad_a = (ctx.scale * (g @ thin_b)).T @ x
        grad_b = g.T @ (ctx.scale * (x @ thin_a.T))
        return grads[0], None, grad_a.to(a.dtype), grad_b.to(b.dtype), None


_low_rank_gradient = cast(Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor], _LowRankGradient.apply)


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
            x: Input (..., in_features). Rows (N, in_features) are fastest: of a grid the result is a view, and what
                then works on it in place costs copies of the whole gradient; half of a grid's channels is copied first.
            update: One expert's update of this layer, or None for the base alone.
        """
        if update is None:
            return F.linear(x, self.weight, self.bias)
        bias = self.bias if update.bias is None else self.bias + update.bias
        if update.a is None or update.b is None:
            return F.linear(x, self.weight, bias)
        merged = torch.addmm(self.weight, update.b, update.a, alpha=update.scale)
        # Merging costs next to nothing beside the rows. What costs is the gradient: that of the full weight in * out a
        # row, from which A and B have theirs for nothing; without it 2 r (in + out).
        full = self.in_features * self.out_features
        thin = 2 * len(update.a) * (self.in_features + self.out_features)
        if self.weight.requires_grad or not update.a.requires_grad or thin > full:
            return F.linear(x, merged, bias)
        return _low_rank_gradient(F.linear(x, merged.detach(), bias), x, update.a, update.b, update.scale)

    @torch.no_grad()
    def merge(self, update: LowRankUpdate) -> None:
        """Add the update to the weights for good: one product instead of three at test time."""
        if update.a is not None and update.b is not None:
            self.weight.add_(update.b @ update.a, alpha=update.scale)
        if update.bias is not None:
            self.bias.add_(update.bias)
