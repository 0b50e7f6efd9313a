"""The affine step inside every coupling block, as one operation with its gradient written out.

As a chain of elementwise operations it makes and keeps seven grids a block and as many again on the way back; on a CPU
that is a quarter of a training step, nearly all of it new memory. As one it keeps the two it needs.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or in its own type where that is wider: log-determinants are never kept in half."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def split_channels(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Return the first channels of a grid (..., D) and the rest, as views.

    As one operation: its gradient is one concatenation, where two slices make a grid of zeros each and add them.
    """
    passive, active = torch.split_with_sizes(x, (first, x.shape[-1] - first), -1)
    return passive, active


class _AffineStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, active: Tensor, raw_scale: Tensor, raw_shift: Tensor, clamp: float, slope: float, gain: float
    ) -> tuple[Tensor, Tensor]:
        bounded = torch.tanh(slope * at_least_float32(raw_scale))
        log_scale = clamp * bounded
        logdet = log_scale.sum(-1)
        ctx.save_for_backward(active, bounded)
        ctx.constants, ctx.types = (clamp, slope, gain), (raw_scale.dtype, raw_shift.dtype)
        return torch.add(active * log_scale.exp_(), raw_shift, alpha=gain), logdet

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_logdet: Tensor) -> tuple[Tensor | None, ...]:
        (active, bounded), (clamp, slope, gain) = ctx.saved_tensors, ctx.constants
        grad_active = (clamp * bounded).exp_().mul_(grad)
        grad_scale = (grad_active * active).add_(grad_logdet[..., None])
        # of clamp tanh(slope s): clamp slope (1 - tanh^2)
        grad_scale.mul_(bounded.square().neg_().add_(1).mul_(clamp * slope))
        types = ctx.types
        return grad_active.to(active.dtype), grad_scale.to(types[0]), (gain * grad).to(types[1]), None, None, None


_apply = cast(Callable[[Tensor, Tensor, Tensor, float, float, float], tuple[Tensor, Tensor]], _AffineStep.apply)


def affine_step(
    active: Tensor, raw_scale: Tensor, raw_shift: Tensor, clamp: float, slope: float, gain: float
) -> tuple[Tensor, Tensor]:
    """Return ``active exp(s) + gain t`` with ``s = clamp tanh(slope s_raw)``, and the sum of s over the channels.

    Args:
        active: Active half (..., C).
        raw_scale: What the network gives for the log-scale, s_raw (..., C).
        raw_shift: What it gives for the shift, t (..., C).
        clamp: Bound of the log-scale.
        slope: Factor inside the bound.
        gain: Factor of the shift.

    Returns:
        The transformed half (..., C) and the log-determinant (...), at least float32 whatever the inputs are.
    """
    return _apply(active, raw_scale, raw_shift, clamp, slope, gain)
