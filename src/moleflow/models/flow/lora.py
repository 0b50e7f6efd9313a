"""Shared linear layers with low-rank updates (LoRA) by expert.

Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, equation 3.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Draw = Callable[[str], torch.Generator]
"""Function from the name of a layer to the generator of its initial weights."""


class _LoRAGradient(torch.autograd.Function):
    """Return ``y = x (W + (1/r) B A)^T`` unchanged, with gradients for A and B.

    For a frozen W and ``g = dL/dy`` they are ``dB = g^T (x A^T) / r`` and ``dA = (g B)^T x / r``, four thin products.
    Automatic differentiation would compute the gradient of the full weight instead. The gradient of x comes from the
    product with the merged weight.
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


_lora_gradient = cast(Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor], _LoRAGradient.apply)


class LoRAUpdate(nn.Module):
    """Low-rank update ``x -> (1/r) B A x + b`` of one layer for one expert.

    ``B`` and ``b`` start at zero, so a new update changes nothing. The scaling is 1/r, as in LoRA with alpha = 1; PEFT
    scales by ``lora_alpha / r``.

    Args:
        in_features: Input width of the layer.
        out_features: Output width of the layer.
        rank: Rank r of the update; 0 omits A and B.
        bias: Whether the expert has its own bias b, the task bias.
        generator: Source of the initial values of ``A`` (Xavier uniform).
    """

    a: nn.Parameter | None
    b: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = 1.0 / rank if rank else 0.0
        if rank:
            bound = math.sqrt(6.0 / (in_features + rank))
            initial = torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)
            self.a = nn.Parameter(initial)
            self.b = nn.Parameter(torch.zeros(out_features, rank))
        else:
            self.register_parameter("a", None)
            self.register_parameter("b", None)
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features))
        else:
            self.register_parameter("bias", None)


class LoRALinear(nn.Linear):
    """Shared linear layer with an optional low-rank update of one expert.

    Args:
        in_features: Input width.
        out_features: Output width.
        generator: Source of the initial weights, whose distribution is that of :class:`torch.nn.Linear`.
    """

    def __init__(self, in_features: int, out_features: int, generator: torch.Generator) -> None:
        with torch.device("meta"):  # skips the initialization that would draw from the global generator
            super().__init__(in_features, out_features)
        bound = 1.0 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound, generator=generator))

    def new_update(self, rank: int, bias: bool, generator: torch.Generator) -> LoRAUpdate:
        """Return a new update for this layer.

        Args:
            rank: Rank of the update; 0 omits A and B.
            bias: Whether the update has a bias.
            generator: Source of the initial values of ``A``.
        """
        return LoRAUpdate(self.in_features, self.out_features, rank, bias, generator)

    def forward(self, x: Tensor, update: LoRAUpdate | None = None) -> Tensor:
        """Return ``W x + b``, plus the update.

        Args:
            x: Input (..., in_features). Rows (N, in_features) are fastest. For a grid the result is a view, and
                in-place operations on it copy the whole gradient; half of a grid's channels is copied first.
            update: One expert's update of this layer; None for the shared layer alone.
        """
        if update is None:
            return F.linear(x, self.weight, self.bias)
        bias = self.bias if update.bias is None else self.bias + update.bias
        if update.a is None or update.b is None:
            return F.linear(x, self.weight, bias)
        merged = torch.addmm(self.weight, update.b, update.a, alpha=update.scale)
        # Merging is cheap compared with the product over all rows; the cost is in the gradient. That of the full weight
        # takes in * out operations per row (those of A and B follow from it), the thin products take 2 r (in + out).
        full = self.in_features * self.out_features
        thin = 2 * len(update.a) * (self.in_features + self.out_features)
        if self.weight.requires_grad or not update.a.requires_grad or thin > full:
            return F.linear(x, merged, bias)
        return _lora_gradient(F.linear(x, merged.detach(), bias), x, update.a, update.b, update.scale)

    @torch.no_grad()
    def merge(self, update: LoRAUpdate) -> None:
        """Add the update to the weights permanently.

        Inference then takes one matrix product instead of three.
        """
        if update.a is not None and update.b is not None:
            self.weight.add_(update.b @ update.a, alpha=update.scale)
        if update.bias is not None:
            self.bias.add_(update.bias)


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer whose weights are zero, without drawing random values.

    Args:
        in_features: Input width.
        out_features: Output width.
    """
    with torch.device("meta"):
        layer = nn.Linear(in_features, out_features)
    layer.weight = nn.Parameter(torch.zeros(out_features, in_features))
    layer.bias = nn.Parameter(torch.zeros(out_features))
    return layer
