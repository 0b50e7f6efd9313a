"""The position code against its formula, entry by entry."""

from math import cos, exp, log, sin

import pytest
import torch

from moleflow.errors import UserError
from moleflow.features import position_code


@pytest.mark.parametrize(("height", "width", "dim"), [(3, 5, 12), (28, 28, 64), (1, 2, 4)])
def test_code_equals_its_formula(height: int, width: int, dim: int) -> None:
    code = position_code(height, width, dim)
    d = dim // 2
    expected = torch.zeros(height, width, dim)
    for row in range(height):
        for column in range(width):
            for k in range(d // 2):
                frequency = exp(-2 * k * log(10_000) / d)
                expected[row, column, 2 * k] = sin(column * frequency)
                expected[row, column, 2 * k + 1] = cos(column * frequency)
                expected[row, column, d + 2 * k] = sin(row * frequency)
                expected[row, column, d + 2 * k + 1] = cos(row * frequency)
    torch.testing.assert_close(code, expected, rtol=0, atol=1e-7)


def test_every_position_has_the_norm_and_its_own_code() -> None:
    code = position_code(7, 9, 32)
    torch.testing.assert_close(code.norm(dim=-1), torch.full((7, 9), 4.0))  # sqrt(32 / 2)
    assert len(code.flatten(0, 1).unique(dim=0)) == 63


def test_type_is_the_one_asked_for() -> None:
    assert position_code(2, 2, 8, device="cpu", dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("dim", [6, 1, 0, 769])
def test_dimension_not_divisible_by_four(dim: int) -> None:
    with pytest.raises(UserError, match=f"dimension {dim} is not divisible by 4.*multiple of 4"):
        position_code(4, 4, dim)
