"""Tests of coupling blocks against FrEIA and automatic differentiation."""

from typing import Any

import FrEIA.modules as fm
import pytest
import torch
from torch import Tensor, nn

from helpers.tensors import perturb_parameters, random_grids
from moleflow.models.flow.coupling import CouplingBlock, CouplingStack
from moleflow.models.flow.subnets import ContextSubnet, PlainSubnet
from moleflow.utils.random import generator

DIM, GRID = 16, (3, 4)


def draw(part: str) -> torch.Generator:
    return generator(0, "test", part)


def new_block(kind: str = "context", affine: bool = True, seed: int = 0) -> CouplingBlock:
    half = DIM // 2
    subnet = ContextSubnet(half, half, 3, draw) if kind == "context" else PlainSubnet(half, half, draw)
    block = CouplingBlock(DIM, subnet, 1.9, affine, generator(seed, "permutation"))
    perturb_parameters(block, 0.4)
    return block


def grid(batch: int = 2, seed: int = 0) -> Tensor:
    return random_grids(batch, *GRID, DIM, seed)


class RowSubnet(nn.Module):
    """A subnet in FrEIA's form, from rows to rows of [scale, shift]."""

    def __init__(self, subnet: Any) -> None:
        super().__init__()
        self.subnet = subnet

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.subnet(x.reshape(-1, *GRID, x.shape[-1])), -1).reshape(len(x), -1)


@pytest.mark.parametrize("kind", ["context", "plain"])
def test_equals_freia_all_in_one_block(kind: str) -> None:
    block = new_block(kind)
    reference = fm.AllInOneBlock(
        [(DIM,)],
        subnet_constructor=lambda i, o: RowSubnet(block.subnet),
        affine_clamping=1.9,
        global_affine_type="SOFTPLUS",
        permute_soft=False,
    )
    assert block.affine is not None
    with torch.no_grad():
        reference.global_scale.copy_(block.affine.raw_scale.view_as(reference.global_scale))
        reference.global_offset.copy_(block.affine.offset.view_as(reference.global_offset))
        reference.w_perm.copy_(torch.eye(DIM)[block.order].view_as(reference.w_perm))
        reference.w_perm_inv.copy_(torch.eye(DIM)[block.order].T.reshape(reference.w_perm_inv.shape))
    x = grid()
    z, logdet = block(x)
    (expected,), expected_logdet = reference([x.reshape(-1, DIM)])
    torch.testing.assert_close(z.reshape(-1, DIM), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logdet.reshape(-1), expected_logdet, atol=1e-5, rtol=1e-5)
    (inverse,), _ = reference([z.reshape(-1, DIM)], rev=True)
    torch.testing.assert_close(block.inverse(z).reshape(-1, DIM), inverse, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["context", "plain"])
def test_log_determinant_equals_that_of_the_jacobian_of_the_whole_grid(kind: str) -> None:
    stack = CouplingStack([new_block(kind, seed=s) for s in range(3)]).double()
    x = grid(1).double()
    jacobian = torch.autograd.functional.jacobian(lambda flat: stack(flat.view_as(x))[0].flatten(), x.flatten())
    _, logdet = stack(x)
    torch.testing.assert_close(logdet.double().sum(), torch.linalg.slogdet(jacobian).logabsdet, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["context", "plain"])
def test_inverse_of_forward_is_the_input(kind: str) -> None:
    stack = CouplingStack([new_block(kind, seed=s) for s in range(4)]).double()
    x = grid().double()
    torch.testing.assert_close(stack.inverse(stack(x)[0]), x, atol=1e-9, rtol=1e-9)


def test_empty_stack_is_the_identity() -> None:
    x = grid()
    z, logdet = CouplingStack([])(x)
    assert torch.equal(z, x)
    assert torch.equal(logdet, torch.zeros(x.shape[:-1]))


def test_gradient_of_the_permutation_equals_that_of_the_dense_product() -> None:
    block = new_block()
    x = grid().requires_grad_()
    weights = grid(seed=5)
    (block(x)[0] * weights).sum().backward()
    gradient, x.grad = x.grad, None
    passive, active = x[..., : DIM // 2], x[..., DIM // 2 :]
    scale, shift = block.subnet(passive)
    y = torch.cat((passive, active * (1.9 * torch.tanh(0.1 * scale)).exp() + 0.1 * shift), -1)
    assert block.affine is not None
    y = (y * block.affine.scale() + block.affine.offset) @ torch.eye(DIM)[block.order].T
    (y * weights).sum().backward()
    torch.testing.assert_close(gradient, x.grad)
