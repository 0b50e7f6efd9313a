"""Coupling blocks: against FrEIA, against autograd, and back again."""

from typing import Any

import FrEIA.modules as fm
import pytest
import torch
from torch import Tensor, nn

from moleflow.flow.auxiliary import AuxiliaryCoupling
from moleflow.flow.coupling import CouplingBlock, CouplingStack
from moleflow.flow.subnets import ContextSubnet, PlainSubnet
from moleflow.randomness import generator

DIM, GRID = 16, (3, 4)


def draw(part: str) -> torch.Generator:
    return generator(0, "test", part)


def randomise(module: nn.Module, scale: float = 0.4) -> None:
    """Move every parameter away from its start, so that no term is zero by accident."""
    rng = generator(1, "randomise")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=rng)


def block(kind: str = "context", affine: bool = True, seed: int = 0) -> CouplingBlock:
    half = DIM // 2
    subnet = ContextSubnet(half, half, 3, draw) if kind == "context" else PlainSubnet(half, half, draw)
    made = CouplingBlock(DIM, subnet, 1.9, affine, generator(seed, "permutation"))
    randomise(made)
    return made


def grid(seed: int = 2, batch: int = 2) -> Tensor:
    return torch.randn(batch, *GRID, DIM, generator=generator(seed, "grid"))


class FlatSubnet(nn.Module):
    """Our subnet as FrEIA calls one: rows in, [scale, shift] rows out."""

    def __init__(self, subnet: Any) -> None:
        super().__init__()
        self.subnet = subnet

    def forward(self, x: Tensor) -> Tensor:
        shaped = x.reshape(-1, *GRID, x.shape[-1])
        return torch.cat(self.subnet(shaped), -1).reshape(len(x), -1)


@pytest.mark.parametrize("kind", ["context", "plain"])
def test_equals_freia_all_in_one_block(kind: str) -> None:
    ours = block(kind)
    theirs = fm.AllInOneBlock(
        [(DIM,)],
        subnet_constructor=lambda i, o: FlatSubnet(ours.subnet),
        affine_clamping=1.9,
        global_affine_type="SOFTPLUS",
        permute_soft=False,
    )
    assert ours.affine is not None
    with torch.no_grad():
        theirs.global_scale.copy_(ours.affine.raw_scale.view_as(theirs.global_scale))
        theirs.global_offset.copy_(ours.affine.offset.view_as(theirs.global_offset))
        theirs.w_perm.copy_(torch.eye(DIM)[ours.order].view_as(theirs.w_perm))
        theirs.w_perm_inv.copy_(torch.eye(DIM)[ours.order].T.reshape(theirs.w_perm_inv.shape))
    x = grid()
    z, logdet = ours(x)
    (z_ref,), logdet_ref = theirs([x.reshape(-1, DIM)])
    torch.testing.assert_close(z.reshape(-1, DIM), z_ref, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logdet.reshape(-1), logdet_ref, atol=1e-5, rtol=1e-5)
    (x_ref,), _ = theirs([z.reshape(-1, DIM)], rev=True)
    torch.testing.assert_close(ours.inverse(z).reshape(-1, DIM), x_ref, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["context", "plain"])
def test_logdet_equals_autograd_jacobian_of_the_whole_grid(kind: str) -> None:
    stack = CouplingStack([block(kind, seed=s) for s in range(3)]).double()
    x = grid(batch=1).double()
    jacobian = torch.autograd.functional.jacobian(lambda flat: stack(flat.view_as(x))[0].flatten(), x.flatten())
    _, logdet = stack(x)
    torch.testing.assert_close(logdet.double().sum(), torch.linalg.slogdet(jacobian).logabsdet, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["context", "plain"])
def test_inverse_of_forward(kind: str) -> None:
    stack = CouplingStack([block(kind, seed=s) for s in range(4)]).double()
    x = grid().double()
    torch.testing.assert_close(stack.inverse(stack(x)[0]), x, atol=1e-9, rtol=1e-9)


def test_no_blocks_is_the_identity() -> None:
    x = grid()
    z, logdet = CouplingStack([])(x)
    assert torch.equal(z, x)
    assert torch.equal(logdet, torch.zeros(x.shape[:-1]))


@pytest.mark.parametrize("flip", [False, True])
def test_auxiliary_block(flip: bool) -> None:
    made = AuxiliaryCoupling(DIM, 8, 1.9, flip, draw)
    x = grid(batch=1)
    z, logdet = made(x)
    assert torch.equal(z, x)
    assert torch.equal(logdet, torch.zeros_like(logdet))  # the identity at the start
    randomise(made)
    made, x = made.double(), x.double()
    z, logdet = made(x)
    half = DIM // 2
    kept = slice(half, None) if flip else slice(None, half)
    assert torch.equal(z[..., kept], x[..., kept])
    jacobian = torch.autograd.functional.jacobian(lambda flat: made(flat.view_as(x))[0].flatten(), x.flatten())
    torch.testing.assert_close(logdet.double().sum(), torch.linalg.slogdet(jacobian).logabsdet, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(made.inverse(z), x)


def test_permutation_gradient_equals_the_dense_product() -> None:
    made = block()
    x = grid().requires_grad_()
    weights = grid(seed=5)
    (made(x)[0] * weights).sum().backward()
    ours, x.grad = x.grad, None
    passive, active = x[..., : DIM // 2], x[..., DIM // 2 :]
    scale, shift = made.subnet(passive)
    y = torch.cat((passive, active * (1.9 * torch.tanh(0.1 * scale)).exp() + 0.1 * shift), -1)
    assert made.affine is not None
    y = (y * made.affine.scale() + made.affine.offset) @ torch.eye(DIM)[made.order].T
    (y * weights).sum().backward()
    torch.testing.assert_close(ours, x.grad)
