"""Router distances against direct computations, invariances, routing with few images and leave-one-out distances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow.routing.router import RULES, Router
from moleflow.routing.statistics import FeatureStatistics
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator

DIMENSION = 12
COUNTS = {"bottle": 30, "cookie": 7, "screw": 18}  # one of them has fewer images than dimensions


def _features(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = generator(seed, "test-router")
    mixing = torch.randn(DIMENSION, DIMENSION, generator=draw, dtype=torch.float64)
    clusters = {}
    for name, count in COUNTS.items():
        center = 2 * torch.randn(DIMENSION, generator=draw, dtype=torch.float64)
        clusters[name] = center + torch.randn(count, DIMENSION, generator=draw, dtype=torch.float64) @ mixing
    return clusters


def _queries(count: int = 10) -> torch.Tensor:
    return 4 * torch.randn(count, DIMENSION, generator=generator(0, "test-router-queries"), dtype=torch.float64)


def _network_features(count: int, seed: int, dimension: int = 16) -> torch.Tensor:
    """Return features (count, dimension) like those of a network: float32, far from zero, with unequal variances."""
    draw = generator(seed, "test-scale", count)
    scale = torch.logspace(0, -2, dimension)
    return 3 + torch.randn(dimension, generator=draw) + torch.randn(count, dimension, generator=draw) * scale


def _router(rule: str, clusters: dict[str, torch.Tensor], shrinkage: float = 0.1) -> Router:
    router = Router(rule, shrinkage)
    for name, features in clusters.items():
        router.add(name, FeatureStatistics.from_features(features))
    return router


def _reference(rule: str, clusters: dict[str, torch.Tensor], queries: torch.Tensor, shrinkage: float) -> np.ndarray:
    """Return the distances (B, E) by a full scatter matrix per expert."""
    values = [features.double().numpy() for features in clusters.values()]
    scatters = [(x - x.mean(axis=0)).T @ (x - x.mean(axis=0)) for x in values]
    identity = np.eye(queries.shape[1])
    shared = sum(scatters) / max(1, sum(len(x) - 1 for x in values))
    shared = (1 - shrinkage) * shared + shrinkage * (np.diag(shared).mean() or 1.0) * identity
    columns = []
    for x, scatter in zip(values, scatters, strict=True):
        covariance = {
            "shared_covariance": shared,
            "per_expert_covariance": scatter / max(1, len(x) - 1) + 1e-5 * identity,
            "euclidean": identity,
        }[rule]
        differences = (queries.double().numpy() - x.mean(axis=0)).T
        columns.append(np.sqrt((differences * np.linalg.solve(covariance, differences)).sum(axis=0)))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("shrinkage", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_routing_equals_a_direct_computation(rule: str, shrinkage: float) -> None:
    clusters, queries = _features(), _queries()
    router = _router(rule, clusters, shrinkage)
    expected = _reference(rule, clusters, queries, shrinkage)
    routing = router.route(queries)
    np.testing.assert_allclose(routing.distances, expected, rtol=1e-5)
    assert routing.distances.equal(router.distances(queries))
    assert routing.experts == [list(COUNTS)[j] for j in expected.argmin(axis=1)]
    ordered = np.sort(expected, axis=1)
    np.testing.assert_allclose(routing.margins, ordered[:, 1] - ordered[:, 0], rtol=1e-4)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 48), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_distances_for_any_number_of_images_equal_a_direct_computation(rule: str, counts: list[int], seed: int) -> None:
    clusters = {str(i): _network_features(count, seed + i) for i, count in enumerate(counts)}
    queries = torch.cat((_network_features(4, seed + 77), *(features[:1] + 0.01 for features in clusters.values())))
    distances = _router(rule, clusters).distances(queries)
    np.testing.assert_allclose(distances, _reference(rule, clusters, queries, 0.1), rtol=1e-9)


@pytest.mark.parametrize("rule", ["shared_covariance", "euclidean"])
def test_distances_are_invariant_to_rotation_and_translation(rule: str) -> None:
    clusters, queries = _features(), _queries()
    rotation = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=generator(1, "turn"), dtype=torch.float64)).Q
    moved = _router(rule, {name: features @ rotation + 50 for name, features in clusters.items()})
    torch.testing.assert_close(moved.distances(queries @ rotation + 50), _router(rule, clusters).distances(queries))


def test_distances_with_a_shared_covariance_are_invariant_to_scale() -> None:
    clusters, queries = _features(), _queries()
    scaled = _router("shared_covariance", {name: 1e-4 * features for name, features in clusters.items()})
    expected = _router("shared_covariance", clusters).distances(queries)
    torch.testing.assert_close(scaled.distances(1e-4 * queries), expected)


@pytest.mark.parametrize("rule", RULES)
def test_distances_do_not_depend_on_the_order_of_experts(rule: str) -> None:
    clusters, queries = _features(), _queries()
    reverse = _router(rule, dict(reversed(clusters.items())))
    torch.testing.assert_close(reverse.distances(queries).flip(1), _router(rule, clusters).distances(queries))


@pytest.mark.parametrize("rule", RULES)
def test_experts_added_between_distances_equal_experts_added_at_once(rule: str) -> None:
    clusters, queries = _features(), _queries()
    router = Router(rule)
    for name, features in clusters.items():
        router.add(name, FeatureStatistics.from_features(features))
        router.distances(queries)
    assert router.names == list(clusters)
    assert router.distances(queries).equal(_router(rule, clusters).distances(queries))


def test_each_scatter_is_computed_once() -> None:
    class CountingStatistics(FeatureStatistics):
        accesses = 0

        @property
        def centered(self) -> torch.Tensor:
            type(self).accesses += 1
            return super().centered

    router = Router()
    for i in range(8):
        router.add(str(i), CountingStatistics.from_features(_network_features(5, i)))
        router.distances(_network_features(1, 99))
    assert CountingStatistics.accesses == 8


def _few_images() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return well separated categories of equal variance in 64 dimensions: one has 20 images, two have 200."""
    draw = generator(0, "test-router-few")
    train, test = {}, {}
    for i, (name, count) in enumerate({"cookie": 20, "bottle": 200, "cable": 200}.items()):
        center = torch.zeros(64)
        center[i] = 12
        train[name] = center + torch.randn(count, 64, generator=draw)
        test[name] = center + torch.randn(30, 64, generator=draw)
    return train, test


def test_few_images_are_routed_correctly_with_a_shared_covariance_only() -> None:
    train, test = _few_images()
    per_expert, shared = _router("per_expert_covariance", train), _router("shared_covariance", train)
    for name, images in test.items():
        assert shared.route(images).experts == [name] * 30
    assert per_expert.route(test["bottle"]).experts == ["bottle"] * 30
    assert "cookie" not in per_expert.route(test["cookie"]).experts


@pytest.mark.parametrize("dimension", [128, 768])
def test_thirty_images_per_category_are_enough_for_a_shared_covariance(dimension: int) -> None:
    draw = generator(0, "test-router-thirty", dimension)
    scale = torch.logspace(0, -4, dimension)  # few directions have most of the variance, as in real features
    centers = {name: torch.randn(dimension, generator=draw) * scale.sqrt() for name in ("a", "b", "c")}
    router = Router()
    for name, center in centers.items():
        features = center + 0.2 * torch.randn(30, dimension, generator=draw) * scale
        router.add(name, FeatureStatistics.from_features(features))
    for name, center in centers.items():
        images = center + 0.2 * torch.randn(20, dimension, generator=draw) * scale
        assert router.route(images).experts == [name] * 20


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 2])
def test_all_images_are_routed_to_a_single_expert(rule: str, count: int) -> None:
    routing = _router(rule, {"only": _features()["bottle"][:count]}).route(_queries())
    assert routing.experts == ["only"] * 10
    assert routing.distances.shape == (10, 1)
    assert routing.distances.isfinite().all()
    assert routing.margins.isinf().all()


def test_a_tie_is_routed_to_the_expert_added_first() -> None:
    features = _features()["bottle"]
    routing = _router("shared_covariance", {"z": features, "a": features}).route(_queries(3))
    assert routing.experts == ["z"] * 3
    assert routing.margins.tolist() == [0, 0, 0]


def test_features_of_low_precision_are_routed_in_float64() -> None:
    router = _router("shared_covariance", _features())
    queries = _queries().bfloat16()
    assert router.distances(queries).equal(router.distances(queries.double()))


@pytest.mark.parametrize("rule", RULES)
def test_leave_one_out_distances_are_those_of_a_router_without_the_image(rule: str) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 6, generator=draw), torch.randn(30, 6, generator=draw) + 3
    router = _router(rule, {"a": a, "b": b})
    closed_form = router.leave_one_out_distances("a", a)
    for i in (0, 7, 39):
        without = _router(rule, {"a": torch.cat((a[:i], a[i + 1 :])), "b": b})
        expected = float(without.distances(a[i : i + 1])[0, 0])
        # Not exact: the degrees of freedom and the mean eigenvalue include the image.
        assert float(closed_form[i]) == pytest.approx(expected, rel=0.03)
        assert float(closed_form[i]) > float(router.distances(a[i : i + 1])[0, 0])


@pytest.mark.parametrize("dimension", [4, 40])  # fewer and more dimensions than images
@pytest.mark.parametrize("rule", RULES)
def test_leave_group_out_distances_are_those_of_a_router_without_the_group(rule: str, dimension: int) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(24, dimension, generator=draw), torch.randn(9, dimension, generator=draw) + 3
    groups = torch.tensor([0, 1, 1, 2] * 6)
    distances = _router(rule, {"a": a, "b": b}).leave_one_out_distances("a", a, groups)
    for group in range(3):
        without = _router(rule, {"a": a[groups != group], "b": b})
        torch.testing.assert_close(distances[groups == group], without.distances(a[groups == group])[:, 0])


@pytest.mark.parametrize("rule", RULES)
def test_affine_form_has_the_distances(rule: str) -> None:
    router, queries = _router(rule, _features()), _queries()
    parts = [
        ((queries - center) @ matrix)[:, None].sub(means).norm(dim=2) for center, matrix, means in router.affine_form()
    ]
    torch.testing.assert_close(torch.cat(parts, 1), router.distances(queries))


@pytest.mark.parametrize("rule", RULES)
def test_the_leave_group_out_distance_of_a_single_group_is_infinite(rule: str) -> None:
    features = _features()["bottle"]
    router = _router(rule, {"only": features})
    assert router.leave_one_out_distances("only", features, torch.zeros(30)).isinf().all()


@pytest.mark.parametrize("rule", RULES)
def test_the_leave_one_out_distance_of_a_single_image_is_infinite(rule: str) -> None:
    features = _features()["bottle"][:1]
    assert _router(rule, {"only": features}).leave_one_out_distances("only", features).tolist() == [torch.inf]


def test_invalid_arguments_are_errors() -> None:
    with pytest.raises(UserError, match="Did you mean 'shared_covariance'"):
        Router("shared")
    for shrinkage in (0.0, 1.1, float("nan")):
        with pytest.raises(UserError, match=rf"^shrinkage={shrinkage} must lie in \(0, 1\]"):
            Router(shrinkage=shrinkage)
    with pytest.raises(ValueError, match="has no expert"):
        Router().route(_queries())
    router = _router("shared_covariance", _features())
    with pytest.raises(ValueError, match="already"):
        router.add("cookie", FeatureStatistics.from_features(_features()["cookie"]))
    with pytest.raises(ValueError, match="12 dimensions and 'wide' 13"):
        router.add("wide", FeatureStatistics.from_features(torch.ones(3, 13)))
    with pytest.raises(ValueError, match="finite"):
        router.route(torch.full((1, DIMENSION), torch.nan))


@pytest.mark.parametrize("rule", RULES)
def test_removed_expert_leaves_no_trace(rule: str) -> None:
    clusters = _features()
    router = _router(rule, clusters)
    router.distances(_queries())  # stores the factorization and the sum of the scatters
    router.remove("cookie")
    others = {name: features for name, features in clusters.items() if name != "cookie"}
    torch.testing.assert_close(
        router.distances(_queries()), _router(rule, others).distances(_queries()), rtol=0, atol=0
    )
    assert router.names == list(others)
