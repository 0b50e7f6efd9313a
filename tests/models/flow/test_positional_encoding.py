"""Tests of the positional encoding against its formula."""

from math import cos, exp, log, sin

import pytest
import torch

from moleflow.models.flow.positional_encoding import positional_encoding
from moleflow.utils.errors import UserError


@pytest.mark.parametrize(("height", "width", "dim"), [(3, 5, 12), (28, 28, 64), (1, 2, 4)])
def test_every_entry_equals_the_formula(height: int, width: int, dim: int) -> None:
    encoding = positional_encoding(height, width, dim)
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
    torch.testing.assert_close(encoding, expected, rtol=0, atol=1e-7)


def test_vectors_have_one_norm_and_are_distinct() -> None:
    encoding = positional_encoding(7, 9, 32)
    torch.testing.assert_close(encoding.norm(dim=-1), torch.full((7, 9), 4.0))  # sqrt(32 / 2)
    assert len(encoding.flatten(0, 1).unique(dim=0)) == 63


def test_result_has_the_requested_type() -> None:
    assert positional_encoding(2, 2, 8, device="cpu", dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize(("dim", "allowed"), [(6, "4 or 8"), (1, "4"), (0, "4"), (-5, "4"), (769, "768 or 772")])
def test_dimensions_not_divisible_by_four_raise(dim: int, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"backbone\.dim={dim} is not divisible by 4.*for example {allowed}\."):
        positional_encoding(4, 4, dim)
