"""Feature statistics against numpy, and their memory."""

import numpy as np
import pytest
import torch

from moleflow.routing.statistics import FeatureStatistics
from moleflow.utils.random import generator


def _features(count: int, dimension: int = 5) -> torch.Tensor:
    return 100 + torch.randn(count, dimension, generator=generator(0, "test-statistics", count))


@pytest.mark.parametrize("count", [2, 5, 9])
def test_equals_numpy(count: int) -> None:
    features = _features(count)
    statistics = FeatureStatistics.from_features(features)
    assert statistics.count == count
    assert statistics.mean.dtype == statistics.scatter.dtype == torch.float64
    np.testing.assert_allclose(statistics.mean, features.double().numpy().mean(axis=0))
    np.testing.assert_allclose(statistics.scatter / (count - 1), np.cov(features.double().numpy().T), atol=1e-10)


def test_at_most_as_many_rows_as_dimensions_are_stored() -> None:
    features = _features(200, 768)
    statistics = FeatureStatistics.from_features(features)
    assert statistics.rows.data_ptr() == features.data_ptr(), "the features are copied"
    assert statistics.rows.nbytes + statistics.mean.nbytes < 0.63e6
    assert FeatureStatistics.from_features(_features(2000, 64)).rows.shape == (64, 64)


def test_invalid_features_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FeatureStatistics.from_features(torch.empty(0, 4))
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        FeatureStatistics.from_features(torch.empty(4))
    with pytest.raises(ValueError, match="finite"):
        FeatureStatistics.from_features(torch.tensor([[1.0, torch.inf]]))
