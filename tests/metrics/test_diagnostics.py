"""Diagnostic statistics against scipy, numpy and direct computations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from moleflow.metrics.diagnostics import (
    QQ_LEVELS,
    border_share,
    correlation,
    cosine,
    effective_rank,
    excess_kurtosis,
    norm_shares,
    normal_qq,
    product_singular_values,
    route_margins,
    tail_frequency,
)

seeds = st.integers(0, 10_000)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seeds, st.integers(2, 40), st.floats(0.1, 50))
def test_correlation_and_kurtosis_equal_scipy(seed: int, count: int, scale: float) -> None:
    a, b = normal(seed, count, 3), scale * normal(seed + 1, count, 3) + 7
    x, y = a.flatten().double().numpy(), b.flatten().double().numpy()
    assert correlation(a, b) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-6)
    assert correlation(a, 3 * a - 1) == pytest.approx(1)
    assert excess_kurtosis(b) == pytest.approx(stats.kurtosis(y), rel=1e-6, abs=1e-6)
    assert cosine(a, b) == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)


def test_undefined_statistics_are_none() -> None:
    constant = torch.ones(4)
    assert correlation(constant, normal(0, 4)) is None
    assert excess_kurtosis(constant) is None
    assert cosine(torch.zeros(3), normal(0, 3)) is None
    assert norm_shares({"a": torch.zeros(2), "b": torch.zeros(3)}) is None
    assert effective_rank(torch.zeros(3)) is None


def test_quantiles_of_a_normal_distribution_are_the_levels() -> None:
    levels = torch.tensor(QQ_LEVELS)
    exact = torch.from_numpy(stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)).reshape(20, -1)
    assert torch.allclose(torch.tensor(normal_qq(exact))[2:-2], levels[2:-2], atol=0.02)
    assert torch.allclose(torch.tensor(normal_qq(2 * exact + 1))[2:-2], 2 * levels[2:-2] + 1, atol=0.04)


@given(seeds, st.integers(2, 200))
def test_quantiles_equal_numpy(seed: int, count: int) -> None:
    values = normal(seed, count)
    assert normal_qq(values) == pytest.approx(np.quantile(values.numpy(), stats.norm.cdf(QQ_LEVELS)).tolist(), abs=1e-6)


def test_norm_shares() -> None:
    shares = norm_shares({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([15.0]), "c": torch.zeros(1)})
    assert shares == pytest.approx({"a": 0.25, "b": 0.75, "c": 0.0})


@given(seeds, st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.data())
def test_tail_frequency_and_border_share(seed: int, images: int, height: int, width: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, height * width))
    scores = normal(seed, images, height, width)
    expected = np.zeros((height, width))
    for image in scores.numpy():
        order = sorted((-image[y, x], y, x) for y in range(height) for x in range(width))
        for _, y, x in order[:count]:
            expected[y, x] += 1 / images
    frequency = tail_frequency(scores, count)
    assert frequency.numpy() == pytest.approx(expected)
    ring = [(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)]
    share, patches = border_share(frequency)
    assert share == pytest.approx(sum(expected[y, x] for y, x in ring) / count)
    assert patches == pytest.approx(len(ring) / (height * width))


@given(seeds, st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_product_singular_values_equal_numpy(seed: int, rank: int, height: int, width: int) -> None:
    b, a = normal(seed, height, rank), normal(seed + 1, rank, width)
    exact = np.linalg.svd((b.double() @ a.double()).numpy(), compute_uv=False)
    values = product_singular_values(b, a).tolist()
    common = min(len(exact), len(values))
    assert values[:common] == pytest.approx(exact[:common].tolist(), abs=1e-9)
    assert [*values[common:], *exact[common:]] == pytest.approx([0.0] * abs(len(exact) - len(values)), abs=1e-9)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.floats(0.05, 1.0))
def test_effective_rank_is_the_least_rank_with_the_energy(values: list[float], energy: float) -> None:
    rank = effective_rank(torch.tensor(values, dtype=torch.float64), energy)
    squares = sorted((v * v for v in values), reverse=True)
    total = math.fsum(squares)
    assert rank is not None
    assert math.fsum(squares[:rank]) / total >= energy - 1e-9
    assert rank == 1 or math.fsum(squares[: rank - 1]) / total < energy + 1e-9


@given(seeds, st.integers(1, 5), st.integers(2, 5), st.data())
def test_margins_are_relative_to_the_nearest_other_expert(
    seed: int, images: int, experts: int, data: st.DataObject
) -> None:
    expert = data.draw(st.integers(0, experts - 1))
    distances = normal(seed, images, experts).abs()
    margins = route_margins(distances, expert).tolist()
    for row, margin in zip(distances.tolist(), margins, strict=True):
        assert margin == pytest.approx(min(d for i, d in enumerate(row) if i != expert) - row[expert])
        assert (margin < 0) == (row.index(min(row)) != expert)
