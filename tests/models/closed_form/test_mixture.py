"""Tests of the mixture model against SciPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, multivariate_t

from helpers.tensors import random_grids
from moleflow.models.closed_form.mixture import MixtureModel
from moleflow.utils.errors import UserError


@pytest.mark.parametrize("degrees_of_freedom", [None, 4.0])
@pytest.mark.parametrize("rank", [8, 5])
def test_score_is_the_likelihood_of_the_nearest_component(rank: int, degrees_of_freedom: float | None) -> None:
    model, x, y = MixtureModel(8, 30, rank, 0.25, 0.3, 0.01, degrees_of_freedom), random_grids(6), random_grids(seed=1)
    model.add_expert("a")
    model.fit("a", [x[:2], x[2:]])

    def shrunk(rows: np.ndarray) -> np.ndarray:
        moments = rows.T @ rows / len(rows)
        return 0.99 * moments + 0.01 * np.trace(moments) / len(moments) * np.eye(len(moments))

    blurred = model.blur(x).flatten(0, 2).double().numpy()
    mean = blurred.mean(0)
    values = np.linalg.eigvalsh(shrunk(blurred - mean))[-rank:]
    metric = model.expert("a").get_buffer("metric").double().numpy()
    lengths = np.linalg.eigvalsh(metric.T @ metric)  # only the signs of eigenvectors are arbitrary
    np.testing.assert_allclose(lengths, np.sort(values**-0.5), rtol=1e-3)
    np.testing.assert_allclose(shrunk(blurred - mean) @ metric, metric * values, rtol=0, atol=1e-3 * values.max())
    centers = model.expert("a").get_buffer("patches").double().numpy()
    mapped = (blurred - mean) @ metric
    image_of_center = [int(np.argmin(np.abs(mapped - c).sum(1))) // 20 for c in centers]
    differences = []
    for i, row in enumerate(mapped):
        others = [c for c, image in zip(centers, image_of_center, strict=True) if image != i // 20]
        differences.append(min((row - c for c in others), key=np.linalg.norm))
    covariance = shrunk(np.stack(differences))
    rows = (model.blur(y).flatten(0, 2).double().numpy() - mean) @ metric
    if degrees_of_freedom is None:
        component = multivariate_normal(cov=covariance)
    else:
        component = multivariate_t(shape=covariance, df=degrees_of_freedom)
    expected = []
    for row in rows:
        difference = min((row - c for c in centers), key=np.linalg.norm)
        expected.append(np.log(30) + 0.25 * np.log(values).sum() - component.logpdf(difference))
    scores = model.patch_scores(y, "a").flatten()
    torch.testing.assert_close(scores.double(), torch.tensor(expected), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.merged("a").patch_scores(y, "a").flatten(), scores)


@pytest.mark.parametrize("degrees_of_freedom", [None, 10.0])
def test_density_of_one_component_integrates_to_one(degrees_of_freedom: float | None) -> None:
    model = MixtureModel(2, size=1, blur=0.0, degrees_of_freedom=degrees_of_freedom)
    model.add_expert("a")
    model.fit("a", [random_grids(8, dim=2) * torch.tensor([2.0, 0.5]) + 1])
    axis = torch.linspace(-25, 25, 401)
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)[None]
    mass = (-model.patch_scores(plane, "a").double()).exp().sum() * (axis[1] - axis[0]).double() ** 2
    assert float(mass) == pytest.approx(1.0, rel=1e-3)


def test_score_does_not_depend_on_directions_outside_the_subspace() -> None:
    model, y = MixtureModel(8, size=30, rank=5, blur=0.0), random_grids(seed=1)
    model.add_expert("a")
    model.fit("a", [random_grids(6)])
    metric, scores = model.expert("a").get_buffer("metric"), model.patch_scores(y, "a")
    shift = torch.linalg.svd(metric).U[:, 5:] @ torch.tensor([3.0, -2.0, 5.0])
    torch.testing.assert_close(model.patch_scores(y + shift, "a"), scores, rtol=1e-4, atol=1e-3)
    assert float((model.patch_scores(y + 3 * metric[:, 0], "a") - scores).abs().max()) > 1


def test_loaded_expert_keeps_its_rank() -> None:
    saved, other = (MixtureModel(8, size=30, rank=rank, degrees_of_freedom=10) for rank in (8, 5))
    for model in (saved, other):
        model.add_expert("a")
    saved.fit("a", [random_grids(6)])
    other.load_expert_state("a", saved.expert_state("a"))
    x = random_grids(seed=1)
    torch.testing.assert_close(other.patch_scores(x, "a"), saved.patch_scores(x, "a"))


@given(st.floats(1, 1e3), st.floats(0, 1e4), st.floats(1e-3, 1e4))
def test_energy_increases_with_distance_and_tends_to_the_gaussian(
    degrees_of_freedom: float, distance: float, increase: float
) -> None:
    distances = torch.tensor([distance, distance + increase], dtype=torch.float64)
    energies = MixtureModel(8, degrees_of_freedom=degrees_of_freedom)._energy(distances, 8)
    assert energies[0] < energies[1]
    gaussian = MixtureModel(8, degrees_of_freedom=1e9)._energy(distances[:1], 8)
    assert float(gaussian) == pytest.approx(0.5 * distance, rel=1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": 0}, r"model\.size=0"),
        ({"rank": 0}, r"model\.rank=0"),
        ({"whitening_power": 0.6}, r"model\.whitening_power=0\.6"),
        ({"blur": 1.5}, r"model\.blur=1\.5"),
        ({"shrinkage": 0}, r"model\.shrinkage=0"),
        ({"degrees_of_freedom": 0.0}, r"model\.degrees_of_freedom=0\.0.*null"),
        ({"degrees_of_freedom": float("inf")}, r"model\.degrees_of_freedom=inf.*null"),
    ],
)
def test_invalid_settings_raise_with_config_key(setting: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MixtureModel(8, **setting)  # type: ignore[arg-type]
