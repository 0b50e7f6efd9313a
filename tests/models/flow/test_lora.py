"""Tests of the hand-written gradients of low-rank updates."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.models.flow.lora import LoRALinear, LoRAUpdate
from moleflow.utils.random import generator


def new_layer(rank: int) -> tuple[LoRALinear, LoRAUpdate]:
    """Return a layer and an update whose matrix B is not zero."""
    rng = generator(0, "test", "lora")
    layer = LoRALinear(24, 20, rng)
    update = layer.new_update(rank, True, rng)
    nn.init.normal_(update.b, generator=rng)  # type: ignore[arg-type]
    return layer, update


def reference(x: Tensor, layer: LoRALinear, update: LoRAUpdate) -> Tensor:
    """Return the layer's output by the definition, with three products."""
    assert update.a is not None
    assert update.b is not None
    assert update.bias is not None
    return F.linear(x, layer.weight, layer.bias + update.bias) + update.scale * (x @ update.a.T @ update.b.T)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("rank", [2, 16])  # thin products, and the gradient of the full weight
def test_output_and_gradients_equal_the_definition(frozen: bool, rank: int) -> None:
    layer, update = (module.double() for module in new_layer(rank))
    layer.requires_grad_(not frozen)
    grid = torch.randn(2, 3, 4, 48, dtype=torch.float64, generator=generator(1, "test", "lora"))
    parameters = [p for p in (*layer.parameters(), *update.parameters()) if p.requires_grad]
    results = []
    for form in (layer, lambda x, u: reference(x, layer, u)):
        whole = grid.clone().requires_grad_()
        y = form(whole[..., :24], update)  # half of the channels, so the rows are not contiguous
        gradients = torch.autograd.grad(y.square().sum(), [whole, *parameters])
        results.append([y, *gradients])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_gradients_under_autocast() -> None:
    layer, update = new_layer(2)
    layer.requires_grad_(False)
    rng = generator(1, "test", "lora")
    x, weights = torch.randn(30, 24, generator=rng), torch.randn(30, 20, generator=rng)
    gradients = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = layer(x, update)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        gradients.append(torch.autograd.grad((y.float() * weights).sum(), list(update.parameters())))
    for half, full in zip(*gradients, strict=True):
        assert half.dtype == torch.float32
        assert (half - full).norm() < 0.02 * full.norm()


def test_merge_adds_the_update_to_the_weights() -> None:
    layer, update = new_layer(2)
    x = torch.randn(5, 24, generator=generator(1, "test", "lora"))
    expected = layer(x, update)
    layer.merge(update)
    torch.testing.assert_close(layer(x), expected)
