"""Tests of DIA blocks."""

import pytest
import torch

from helpers.tensors import perturb_parameters, random_grids
from moleflow.models.flow.dia import DIABlock, dia_width
from moleflow.utils.random import generator

DIM = 16


def draw(part: str) -> torch.Generator:
    return generator(0, "test", part)


@pytest.mark.parametrize("flip", [False, True])
def test_new_block_is_the_identity(flip: bool) -> None:
    x = random_grids(1, 3, 4, DIM)
    z, logdet = DIABlock(DIM, 8, 1.9, flip, draw)(x)
    assert torch.equal(z, x)
    assert torch.equal(logdet, torch.zeros_like(logdet))


@pytest.mark.parametrize("flip", [False, True])
def test_passive_half_log_determinant_and_inverse(flip: bool) -> None:
    block = DIABlock(DIM, 8, 1.9, flip, draw)
    perturb_parameters(block, 0.4)
    block, x = block.double(), random_grids(1, 3, 4, DIM).double()
    z, logdet = block(x)
    passive = slice(DIM // 2, None) if flip else slice(None, DIM // 2)
    assert torch.equal(z[..., passive], x[..., passive])
    jacobian = torch.autograd.functional.jacobian(lambda flat: block(flat.view_as(x))[0].flatten(), x.flatten())
    torch.testing.assert_close(logdet.double().sum(), torch.linalg.slogdet(jacobian).logabsdet, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(block.inverse(z), x)


def test_width_is_a_fraction_of_the_channels_and_at_least_one() -> None:
    assert dia_width(768, 0.03125) == 24
    assert dia_width(16, 0.01) == 1
