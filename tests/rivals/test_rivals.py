"""The rivals against slow literal versions, and on the whole road."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, multivariate_t
from torch import Tensor

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.errors import UserError
from moleflow.randomness import generator
from moleflow.rivals import PatchMemory, PatchMixture, PositionGaussian
from moleflow.selection import SELECTIONS, farthest_first, kmeans, nearest, remember


def grids(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 5, 8, generator=generator(seed, "rival"))


def test_a_memory_of_everything_is_the_nearest_neighbour() -> None:
    model = PatchMemory(8, size=10**6)
    model.add_expert("a")
    model.fit("a", [grids()[:2], grids()[2:]])
    x = grids(2, seed=1)
    rows, known = x.flatten(0, 2).numpy(), grids().flatten(0, 2).numpy()
    expected = np.linalg.norm(rows[:, None] - known, axis=2).min(1).reshape(2, 4, 5)
    torch.testing.assert_close(model.patch_scores(x, "a"), torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_small_memory_is_small_repeatable_and_its_experts_independent(selection: str) -> None:
    def learned(*names: str) -> PatchMemory:
        model = PatchMemory(8, size=20, selection=selection)
        for i, name in enumerate(names):
            model.add_expert(name)
            model.fit(name, [grids(seed=i)])
        return model

    alone, both = learned("a"), learned("a", "b")
    assert torch.equal(alone.patch_scores(grids(2, 5), "a"), both.patch_scores(grids(2, 5), "a"))
    assert both.expert("b").get_buffer("patches").shape == (20, 8)
    assert torch.equal(both.merged("b").patch_scores(grids(2, 5), "b"), both.patch_scores(grids(2, 5), "b"))


def test_farthest_first_covers_better_than_chance() -> None:
    points = torch.cat((torch.randn(200, 2, generator=generator(0, "points")), torch.tensor([[50.0, 0], [0, 50.0]])))
    assert {200, 201} <= set(farthest_first(points, 0, 3).tolist())


def test_kmeans_finds_separate_clusters() -> None:
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    points = (centres[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator(0, "k"))).flatten(0, 1)
    found = kmeans(points, points[[0, 60, 120]], 5)
    torch.testing.assert_close(found, points.reshape(3, 50, 2).mean(1))


def test_the_nearest_is_that_of_another_picture_where_there_is_one() -> None:
    x, memory = grids(3), remember(grids(3), 25, "random", generator(0, "memory"))
    rows, pictures = x.flatten(0, 2), torch.arange(3).repeat_interleave(20)
    found = nearest(rows, memory.patches, (pictures, memory.pictures))
    for i, row in enumerate(rows):
        others = [j for j in range(25) if memory.pictures[j] != pictures[i]]
        distances = [float((row - memory.patches[j]).norm()) for j in others]
        assert int(found.rows[i]) == others[int(np.argmin(distances))]
        assert float(found.distance[i]) == pytest.approx(min(distances), rel=1e-4)
    alone = nearest(rows[:20], rows[:20], (pictures[:20], pictures[:20]))
    assert alone.rows.tolist() == list(range(20)), "a memory of one picture leaves nothing out"


@pytest.mark.parametrize("freedom", [None, 4.0])
@pytest.mark.parametrize("rank", [8, 5])
def test_a_mixture_is_the_likelihood_of_its_nearest_component(rank: int, freedom: float | None) -> None:
    model, x, y = PatchMixture(8, 30, rank, 0.25, 0.3, 0.01, freedom), grids(6), grids(2, seed=1)
    model.add_expert("a")
    model.fit("a", [x[:2], x[2:]])

    def shrunk(rows: np.ndarray) -> np.ndarray:
        moments = rows.T @ rows / len(rows)
        return 0.99 * moments + 0.01 * np.trace(moments) / len(moments) * np.eye(len(moments))

    blurred = model.blur(x).flatten(0, 2).double().numpy()
    mean = blurred.mean(0)
    values = np.linalg.eigvalsh(shrunk(blurred - mean))[-rank:]
    metric = model.expert("a").get_buffer("metric").double().numpy()
    order = np.linalg.eigvalsh(metric.T @ metric)  # the eigenvectors' signs are free, their lengths are not
    np.testing.assert_allclose(order, np.sort(values**-0.5), rtol=1e-3)
    np.testing.assert_allclose(
        shrunk(blurred - mean) @ metric, metric * values, rtol=0, atol=1e-3 * values.max()
    )  # and they are eigenvectors
    centres = model.expert("a").get_buffer("patches").double().numpy()
    seen = (blurred - mean) @ metric
    owner = [int(np.argmin(np.abs(seen - c).sum(1))) // 20 for c in centres]
    left = []
    for i, row in enumerate(seen):
        others = [c for c, of in zip(centres, owner, strict=True) if of != i // 20]
        left.append(min((row - c for c in others), key=np.linalg.norm))
    shape = shrunk(np.stack(left))
    rows = (model.blur(y).flatten(0, 2).double().numpy() - mean) @ metric
    component = multivariate_normal(cov=shape) if freedom is None else multivariate_t(shape=shape, df=freedom)
    expected = []
    for row in rows:
        gap = min((row - c for c in centres), key=np.linalg.norm)
        expected.append(np.log(30) + 0.25 * np.log(values).sum() - component.logpdf(gap))
    scores = model.patch_scores(y, "a").flatten()
    torch.testing.assert_close(scores.double(), torch.tensor(expected), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.merged("a").patch_scores(y, "a").flatten(), scores)


@pytest.mark.parametrize("freedom", [None, 10.0])
def test_a_mixture_of_one_component_integrates_to_one(freedom: float | None) -> None:
    model = PatchMixture(2, size=1, blur=0.0, freedom=freedom)
    model.add_expert("a")
    model.fit("a", [grids(8)[..., :2] * torch.tensor([2.0, 0.5]) + 1])
    axis = torch.linspace(-25, 25, 401)
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)[None]
    mass = (-model.patch_scores(plane, "a").double()).exp().sum() * (axis[1] - axis[0]).double() ** 2
    assert float(mass) == pytest.approx(1.0, rel=1e-3)


def test_a_mixture_of_low_rank_asks_nothing_of_the_directions_that_it_leaves_out() -> None:
    model, x, y = PatchMixture(8, size=30, rank=5, blur=0.0), grids(6), grids(2, seed=1)
    model.add_expert("a")
    model.fit("a", [x])
    out = torch.linalg.svd(model.expert("a").get_buffer("metric")).U[:, 5:]
    shift = out @ torch.tensor([3.0, -2.0, 5.0])
    torch.testing.assert_close(model.patch_scores(y + shift, "a"), model.patch_scores(y, "a"), rtol=1e-4, atol=1e-3)
    assert (
        float(
            (model.patch_scores(y + 3 * model.expert("a").get_buffer("metric")[:, 0], "a") - model.patch_scores(y, "a"))
            .abs()
            .max()
        )
        > 1
    )


def test_a_mixture_that_was_saved_with_all_directions_keeps_its_scores() -> None:
    old, new = (PatchMixture(8, size=30, rank=rank, freedom=10) for rank in (8, 5))
    for model in (old, new):
        model.add_expert("a")
    old.fit("a", [grids(6)])
    new.expert("a").load_state_dict(old.expert("a").state_dict())
    torch.testing.assert_close(new.patch_scores(grids(2, seed=1), "a"), old.patch_scores(grids(2, seed=1), "a"))


@pytest.mark.parametrize("model", [PatchMemory(8, size=40), PatchMixture(8, size=40)])
def test_training_pictures_are_scored_without_their_own_patches(model: PatchMemory | PatchMixture) -> None:
    x, new = grids(6), grids(6, seed=7)
    model.add_expert("a")
    model.fit("a", [x])
    seen, held_out, fresh = (
        model.patch_scores(x, "a"),
        model.patch_scores(x, "a", torch.arange(6)),
        model.patch_scores(new, "a"),
    )
    assert float(held_out.mean()) > float(seen.mean())
    assert abs(float(held_out.mean() - fresh.mean())) < 0.5 * abs(float(seen.mean() - fresh.mean()))


def test_position_gaussian_is_the_mahalanobis_distance_at_its_place() -> None:
    model, x = PositionGaussian(8, channels=8, ridge=0.1), grids(30)
    model.add_expert("a")
    model.fit("a", [x])
    rows = x.flatten(1, 2).double().numpy()
    covariances = [np.cov(rows[:, p], rowvar=False) for p in range(20)]
    level = np.mean([np.trace(c) / 8 for c in covariances])
    y = grids(1, seed=1)
    for p in (0, 7, 19):
        gap = y.flatten(1, 2)[0, p].double().numpy() - rows[:, p].mean(0)
        expected = np.sqrt(gap @ np.linalg.inv(covariances[p] + 0.1 * level * np.eye(8)) @ gap)
        assert float(model.patch_scores(y, "a").flatten()[p]) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match="20 positions"):
        model.patch_scores(y[:, :3], "a")


def test_bad_settings_name_the_key() -> None:
    with pytest.raises(UserError, match="greedy"):
        PatchMemory(8, selection="gredy")
    with pytest.raises(UserError, match=r"model\.size=0"):
        PatchMemory(8, size=0)
    with pytest.raises(UserError, match="ridge"):
        PositionGaussian(8, ridge=0)
    with pytest.raises(UserError, match=r"model\.power=0\.6"):
        PatchMixture(8, power=0.6)
    with pytest.raises(UserError, match=r"model\.shrinkage=0"):
        PatchMixture(8, shrinkage=0)
    with pytest.raises(UserError, match=r"model\.rank=0"):
        PatchMixture(8, rank=0)
    for freedom in (0.0, float("inf")):
        with pytest.raises(UserError, match=rf"model\.freedom={freedom}.*null"):
            PatchMixture(8, freedom=freedom)


@given(st.floats(1, 1e3), st.floats(0, 1e4), st.floats(1e-3, 1e4))
def test_student_components_rank_distances_as_gaussians_do(freedom: float, near: float, gap: float) -> None:
    energies = PatchMixture(8, freedom=freedom)._energy(torch.tensor([near, near + gap], dtype=torch.float64), 8)
    assert energies[0] < energies[1]
    gaussian = PatchMixture(8, freedom=1e9)._energy(torch.tensor([near], dtype=torch.float64), 8)
    assert float(gaussian) == pytest.approx(0.5 * near, rel=1e-4)  # with many degrees of freedom it is a Gaussian


@pytest.mark.parametrize("rival", ["gaussian", "patchcore", "padim", "mixture"])
def test_a_run_of_a_rival_can_be_loaded_and_gives_its_scores(rival: str, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    tiny = [setting for setting in TINY if not setting.startswith("model.")]
    overrides = ["dataset=folder", f"dataset.root={root}", *tiny, f"model={rival}", "scoring.standardise=true"]
    metrics = run_program(overrides, tmp_path / "run")
    assert metrics["training"]["steps"] == 0
    assert all(count > 0 for count in metrics["parameters"]["experts"].values())
    rows = [line.split(",") for line in (tmp_path / "run/scores.csv").read_text().splitlines()[1:]]
    scored = MoLEFlow.load(tmp_path / "run").score([root / row[0] for row in rows])
    assert [repr(one.score) for one in scored] == [row[4] for row in rows]


@pytest.mark.parametrize("model", ["patchcore", "mixture", "whitened_memory"])
def test_what_is_normal_is_told_by_pictures_that_are_new_to_a_memory(model: str, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    tiny = [setting for setting in TINY if not setting.startswith("model.")]
    overrides = ["dataset=folder", f"dataset.root={root}", *tiny, f"model={model}"]
    run_program(overrides, tmp_path / "run")
    loaded = MoLEFlow.load(tmp_path / "run")
    paths = sorted((root / "bottle/train/good").iterdir())
    known = torch.tensor([one.score for one in loaded.score(paths, "bottle")])
    assert bool((loaded.seen["bottle"].scores >= known - 1e-3).all())
    assert float(loaded.seen["bottle"].scores.mean()) > float(known.mean()) + 1e-3
