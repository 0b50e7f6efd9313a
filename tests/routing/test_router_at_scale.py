"""The router without scatter matrices: distances of the literal form, exact removal, a size a thousand can have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow.randomness import generator
from moleflow.routing import FeatureStatistics, Router
from moleflow.routing.router import RULES

DIMENSION = 16


def features(count: int, seed: int, dimension: int = DIMENSION) -> torch.Tensor:
    """Pictures of a category as a network gives them: float32, far from zero, channels of unlike spread."""
    draw = generator(seed, "test-scale", count)
    spread = torch.logspace(0, -2, dimension)
    return 3 + torch.randn(dimension, generator=draw) + torch.randn(count, dimension, generator=draw) * spread


def literal(rule: str, sets: list[torch.Tensor], queries: torch.Tensor) -> np.ndarray:
    """The distances by a full scatter matrix an expert, as this router once kept them."""
    values = [x.double().numpy() for x in sets]
    means = [x.mean(axis=0) for x in values]
    scatters = [(x - m).T @ (x - m) for x, m in zip(values, means, strict=True)]
    identity = np.eye(DIMENSION)
    pooled = sum(s / max(1, sum(len(x) - 1 for x in values)) for s in scatters)
    pooled = 0.9 * pooled + 0.1 * (np.diag(pooled).mean() or 1.0) * identity
    columns = []
    for x, mean, scatter in zip(values, means, scatters, strict=True):
        own = scatter / max(1, len(x) - 1) + 1e-5 * identity
        covariance = {"pooled": pooled, "own": own, "euclidean": identity}[rule]
        gaps = (queries.double().numpy() - mean).T
        columns.append(np.sqrt((gaps * np.linalg.solve(covariance, gaps)).sum(axis=0)))
    return np.stack(columns, axis=1)


def router_of(rule: str, sets: list[torch.Tensor]) -> Router:
    router = Router(rule)
    for i, x in enumerate(sets):
        router.add(str(i), FeatureStatistics.from_features(x))
    return router


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 3 * DIMENSION), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_distances_are_those_of_full_scatter_matrices(rule: str, counts: list[int], seed: int) -> None:
    sets = [features(count, seed + i) for i, count in enumerate(counts)]
    queries = torch.cat((features(4, seed + 77), *(x[:1] + 0.01 for x in sets)))
    found = router_of(rule, sets).distances(queries).numpy()
    np.testing.assert_allclose(found, literal(rule, sets, queries), rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 2 * DIMENSION), min_size=2, max_size=5),
    gone=st.integers(0, 4),
    asked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_router_after_a_removal_is_one_that_never_knew(counts: list[int], gone: int, asked: bool, seed: int) -> None:
    gone %= len(counts)
    sets = [features(count, seed + i) for i, count in enumerate(counts)]
    queries = features(5, seed + 77)
    router = router_of("pooled", sets)
    if asked:
        router.distances(queries)
    router.remove(str(gone))
    never = Router()
    for i, x in enumerate(sets):
        if i != gone:
            never.add(str(i), FeatureStatistics.from_features(x))
    assert router.distances(queries).equal(never.distances(queries))


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 2 * DIMENSION), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_merged_sets_are_one_set(counts: list[int], seed: int) -> None:
    sets = [features(count, seed + i) for i, count in enumerate(counts)]
    merged = FeatureStatistics.from_features(sets[0])
    for x in sets[1:]:
        merged = merged.merge(FeatureStatistics.from_features(x))
    whole = FeatureStatistics.from_features(torch.cat(sets))
    assert merged.count == whole.count
    assert len(merged.rows) <= DIMENSION
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-13, atol=0)
    scale = float(whole.scatter.diagonal().max()) + 1e-30
    torch.testing.assert_close(merged.scatter / scale, whole.scatter / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 7, DIMENSION, 3 * DIMENSION])
@pytest.mark.parametrize("rule", RULES)
def test_what_was_written_with_a_scatter_matrix_still_routes(rule: str, count: int) -> None:
    old, other, queries = features(count, 1), features(9, 2), features(6, 3)
    mean = old.double().mean(dim=0)
    centred = old.double() - mean
    written = {"count": torch.tensor(count), "mean": mean, "scatter": centred.T @ centred}
    router = Router(rule)
    router.add("0", FeatureStatistics.from_state(written))
    router.add("1", FeatureStatistics.from_features(other))
    np.testing.assert_allclose(router.distances(queries), literal(rule, [old, other], queries), rtol=1e-9)


def test_two_hundred_pictures_cost_their_features_and_no_copy() -> None:
    few = features(200, 0, 768)
    kept = FeatureStatistics.from_features(few)
    assert kept.rows.data_ptr() == few.data_ptr()
    assert sum(tensor.nbytes for tensor in kept.state().values()) < 0.63e6
    many = FeatureStatistics.from_features(features(2000, 0, 64))
    assert many.rows.shape == (64, 64)


def test_an_added_expert_is_added_to_the_sum_and_earlier_ones_are_not_gone_through_again() -> None:
    class Counted(FeatureStatistics):
        asked = 0

        @property
        def centred(self) -> torch.Tensor:
            type(self).asked += 1
            return super().centred

    router = Router()
    for i in range(8):
        router.add(str(i), Counted.from_features(features(5, i)))
        router.distances(features(1, 99))
    assert Counted.asked == 8
