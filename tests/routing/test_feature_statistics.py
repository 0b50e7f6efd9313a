"""Statistics of features against numpy, their merge, and their state."""

import numpy as np
import pytest
import torch

from moleflow.randomness import generator
from moleflow.routing import FeatureStatistics


def _features(count: int, dimension: int = 5) -> torch.Tensor:
    return 100 + torch.randn(count, dimension, generator=generator(0, "test-statistics", count))


def _same(one: FeatureStatistics, other: FeatureStatistics) -> None:
    assert one.count == other.count
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(one.scatter, other.scatter, rtol=1e-10, atol=1e-10)


def test_equals_numpy() -> None:
    features = _features(9)
    statistics = FeatureStatistics.from_features(features)
    assert statistics.count == 9
    assert statistics.mean.dtype == statistics.scatter.dtype == torch.float64
    np.testing.assert_allclose(statistics.mean, features.double().numpy().mean(axis=0))
    np.testing.assert_allclose(statistics.scatter / 8, np.cov(features.double().numpy().T))


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_merge_equals_all_at_once(cut: int) -> None:
    features = _features(9)
    whole = FeatureStatistics.from_features(features)
    parts = [FeatureStatistics.from_features(part) for part in (features[:cut], features[cut:])]
    _same(parts[0].merge(parts[1]), whole)
    _same(parts[1].merge(parts[0]), whole)


def test_state_round_trip_is_exact() -> None:
    statistics = FeatureStatistics.from_features(_features(7))
    state = statistics.state()
    assert all(tensor.is_contiguous() for tensor in state.values())
    restored = FeatureStatistics.from_state(state)
    assert restored.count == statistics.count
    assert restored.mean.equal(statistics.mean)
    assert restored.rows.equal(statistics.rows)
    assert restored.scatter.equal(statistics.scatter)


def test_what_has_no_statistics_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FeatureStatistics.from_features(torch.empty(0, 4))
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        FeatureStatistics.from_features(torch.empty(4))
    with pytest.raises(ValueError, match="finite"):
        FeatureStatistics.from_features(torch.tensor([[1.0, torch.inf]]))
