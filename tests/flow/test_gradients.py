"""Gradients that are written out by hand equal those of automatic differentiation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.flow.affine import affine_step
from moleflow.flow.lora import LowRankUpdate, SharedLinear
from moleflow.randomness import generator

RNG = generator(0, "test", "gradients")


def plain(x: Tensor, layer: SharedLinear, update: LowRankUpdate) -> Tensor:
    """The definition: three products."""
    assert update.a is not None
    assert update.b is not None
    assert update.bias is not None
    return F.linear(x, layer.weight, layer.bias + update.bias) + update.scale * (x @ update.a.T @ update.b.T)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("rank", [2, 16])  # thin products, and the gradient of the full weight
def test_low_rank_update(frozen: bool, rank: int) -> None:
    layer = SharedLinear(24, 20, RNG).double()
    update = layer.new_update(rank, True, RNG).double()
    nn.init.normal_(update.b, generator=RNG)  # type: ignore[arg-type]
    layer.requires_grad_(not frozen)
    grid = torch.randn(2, 3, 4, 48, dtype=torch.float64, generator=RNG)
    learning = [p for p in (*layer.parameters(), *update.parameters()) if p.requires_grad]
    results = []
    for form in (layer, lambda x, u: plain(x, layer, u)):
        whole = grid.clone().requires_grad_()
        y = form(whole[..., :24], update)  # half of the channels: rows that lie apart
        gradients = torch.autograd.grad(y.square().sum(), [whole, *learning])
        results.append([y, *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_low_rank_update_under_autocast() -> None:
    layer = SharedLinear(24, 20, RNG).requires_grad_(False)
    update = layer.new_update(2, True, RNG)
    nn.init.normal_(update.b, generator=RNG)  # type: ignore[arg-type]
    x = torch.randn(30, 24, generator=RNG)
    weights = torch.randn(30, 20, generator=RNG)
    gradients = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = layer(x, update)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        gradients.append(torch.autograd.grad((y.float() * weights).sum(), list(update.parameters())))
    for half, full in zip(*gradients, strict=True):
        assert half.dtype == torch.float32
        assert (half - full).norm() < 0.02 * full.norm()


def test_affine_step() -> None:
    active, scale, shift = (torch.randn(2, 3, 5, dtype=torch.float64, generator=RNG) for _ in range(3))
    for tensor in (active, scale, shift):
        tensor.requires_grad_()
    transformed, logdet = affine_step(active, scale, shift, 1.9, 0.3, 0.7)
    log_scale = 1.9 * torch.tanh(0.3 * scale)
    torch.testing.assert_close(transformed, active * log_scale.exp() + 0.7 * shift)
    torch.testing.assert_close(logdet, log_scale.sum(-1))
    assert torch.autograd.gradcheck(lambda *x: affine_step(*x, 1.9, 0.3, 0.7), (active, scale, shift))


def test_affine_step_keeps_log_determinants_in_float32() -> None:
    half = torch.randn(4, 6, generator=RNG).bfloat16().requires_grad_()
    active = torch.randn(4, 6, generator=RNG)
    transformed, logdet = affine_step(active, half, half, 1.9, 0.1, 0.1)
    assert transformed.dtype == logdet.dtype == torch.float32
    (transformed.sum() - logdet.sum()).backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
