"""The router against literal versions, its invariances, and few pictures."""

import numpy as np
import pytest
import torch

from moleflow.errors import UserError
from moleflow.randomness import generator
from moleflow.routing import FeatureStatistics, Router
from moleflow.routing.router import RULES

DIMENSION = 12
COUNTS = {"bottle": 30, "cookie": 7, "screw": 18}  # one of them has fewer pictures than dimensions


def _features(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = generator(seed, "test-router")
    mixing = torch.randn(DIMENSION, DIMENSION, generator=draw, dtype=torch.float64)
    clusters = {}
    for name, count in COUNTS.items():
        centre = 2 * torch.randn(DIMENSION, generator=draw, dtype=torch.float64)
        clusters[name] = centre + torch.randn(count, DIMENSION, generator=draw, dtype=torch.float64) @ mixing
    return clusters


def _queries(count: int = 10) -> torch.Tensor:
    return 4 * torch.randn(count, DIMENSION, generator=generator(0, "test-router-queries"), dtype=torch.float64)


def _router(rule: str, clusters: dict[str, torch.Tensor], shrinkage: float = 0.1) -> Router:
    router = Router(rule, shrinkage)
    for name, features in clusters.items():
        router.add(name, FeatureStatistics.from_features(features))
    return router


def _literal(rule: str, clusters: dict[str, torch.Tensor], queries: torch.Tensor, shrinkage: float) -> np.ndarray:
    """Every distance by itself, with an inverse."""
    within = [features.numpy() - features.numpy().mean(axis=0) for features in clusters.values()]
    stacked = np.concatenate(within)
    pooled = stacked.T @ stacked / (len(stacked) - len(within))
    pooled = (1 - shrinkage) * pooled + shrinkage * np.linalg.eigvalsh(pooled).mean() * np.eye(DIMENSION)
    distances = np.zeros((len(queries), len(clusters)))
    for j, features in enumerate(clusters.values()):
        precision = {
            "pooled": np.linalg.inv(pooled),
            "own": np.linalg.inv(np.cov(features.numpy().T) + 1e-5 * np.eye(DIMENSION)),
            "euclidean": np.eye(DIMENSION),
        }[rule]
        for i, query in enumerate(queries.numpy()):
            gap = query - features.numpy().mean(axis=0)
            distances[i, j] = np.sqrt(gap @ precision @ gap)
    return distances


@pytest.mark.parametrize("shrinkage", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_distances_equal_the_literal_ones(rule: str, shrinkage: float) -> None:
    clusters, queries = _features(), _queries()
    router = _router(rule, clusters, shrinkage)
    expected = _literal(rule, clusters, queries, shrinkage)
    np.testing.assert_allclose(router.distances(queries), expected, rtol=1e-5)
    assert router.route(queries) == [list(COUNTS)[j] for j in expected.argmin(axis=1)]
    ordered = np.sort(expected, axis=1)
    np.testing.assert_allclose(router.margin(queries), ordered[:, 1] - ordered[:, 0], rtol=1e-4)


@pytest.mark.parametrize("rule", ["pooled", "euclidean"])
def test_turning_and_moving_all_features_changes_no_distance(rule: str) -> None:
    clusters, queries = _features(), _queries()
    turn = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=generator(1, "turn"), dtype=torch.float64)).Q
    moved = _router(rule, {name: features @ turn + 50 for name, features in clusters.items()})
    torch.testing.assert_close(moved.distances(queries @ turn + 50), _router(rule, clusters).distances(queries))


def test_the_unit_of_the_features_does_not_matter_to_the_pooled_rule() -> None:
    clusters, queries = _features(), _queries()
    scaled = _router("pooled", {name: 1e-4 * features for name, features in clusters.items()})
    torch.testing.assert_close(scaled.distances(1e-4 * queries), _router("pooled", clusters).distances(queries))


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_experts_does_not_matter(rule: str) -> None:
    clusters, queries = _features(), _queries()
    turned = _router(rule, dict(reversed(clusters.items())))
    torch.testing.assert_close(turned.distances(queries).flip(1), _router(rule, clusters).distances(queries))


@pytest.mark.parametrize("rule", RULES)
def test_a_removed_expert_leaves_no_trace(rule: str) -> None:
    clusters, queries = _features(), _queries()
    router = _router(rule, clusters)
    router.distances(queries)
    router.remove("cookie")
    assert router.names == ["bottle", "screw"]
    assert router.distances(queries).equal(
        _router(rule, {name: clusters[name] for name in router.names}).distances(queries)
    )
    router.add("cookie", FeatureStatistics.from_features(clusters["cookie"]))
    assert router.distances(queries).shape == (10, 3)


def _few_pictures() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Well separated categories of equal spread in 64 dimensions: one has 20 pictures, two have 200."""
    draw = generator(0, "test-router-few")
    train, test = {}, {}
    for i, (name, count) in enumerate({"cookie": 20, "bottle": 200, "cable": 200}.items()):
        centre = torch.zeros(64)
        centre[i] = 12
        train[name] = centre + torch.randn(count, 64, generator=draw)
        test[name] = centre + torch.randn(30, 64, generator=draw)
    return train, test


def test_own_covariance_of_few_pictures_sends_them_elsewhere_and_the_pooled_one_does_not() -> None:
    train, test = _few_pictures()
    own, pooled = _router("own", train), _router("pooled", train)
    for name, pictures in test.items():
        assert pooled.route(pictures) == [name] * 30
    assert own.route(test["bottle"]) == ["bottle"] * 30
    assert "cookie" not in own.route(test["cookie"])


@pytest.mark.parametrize("dimension", [128, 768])
def test_thirty_pictures_a_category_are_enough_for_the_pooled_rule(dimension: int) -> None:
    draw = generator(0, "test-router-thirty", dimension)
    spread = torch.logspace(0, -4, dimension)  # few directions carry most of the variance, as in real features
    centres = {name: torch.randn(dimension, generator=draw) * spread.sqrt() for name in ("a", "b", "c")}
    router = Router()
    for name, centre in centres.items():
        router.add(
            name, FeatureStatistics.from_features(centre + 0.2 * torch.randn(30, dimension, generator=draw) * spread)
        )
    for name, centre in centres.items():
        assert router.route(centre + 0.2 * torch.randn(20, dimension, generator=draw) * spread) == [name] * 20


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 2])
def test_a_lone_expert_gets_every_picture(rule: str, count: int) -> None:
    router = _router(rule, {"only": _features()["bottle"][:count]})
    assert router.route(_queries()) == ["only"] * 10
    assert router.distances(_queries()).isfinite().all()
    assert router.margin(_queries()).isinf().all()


def test_a_tie_goes_to_the_earlier_expert() -> None:
    features = _features()["bottle"]
    assert _router("pooled", {"z": features, "a": features}).route(_queries(3)) == ["z"] * 3


def test_features_of_low_precision_are_routed_in_float64() -> None:
    router = _router("pooled", _features())
    queries = _queries().bfloat16()
    assert router.distances(queries).equal(router.distances(queries.double()))


def test_faults_are_told() -> None:
    with pytest.raises(UserError, match="Did you mean 'pooled'"):
        Router("pool")
    for shrinkage in (0.0, 1.1):
        with pytest.raises(UserError, match="shrinkage"):
            Router(shrinkage=shrinkage)
    with pytest.raises(ValueError, match="no expert yet"):
        Router().route(_queries())
    router = _router("pooled", _features())
    with pytest.raises(ValueError, match="already"):
        router.add("cookie", FeatureStatistics.from_features(_features()["cookie"]))
    with pytest.raises(ValueError, match="12 dimensions and 'wide' 13"):
        router.add("wide", FeatureStatistics.from_features(torch.ones(3, 13)))
    with pytest.raises(ValueError, match="Did you mean 'cookie'"):
        router.remove("cooky")
    with pytest.raises(ValueError, match="finite"):
        router.route(torch.full((1, DIMENSION), torch.nan))
