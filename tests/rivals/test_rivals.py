"""The rivals against slow literal versions, and on the whole road."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.errors import UserError
from moleflow.randomness import generator
from moleflow.rivals import PatchMemory, PositionGaussian
from moleflow.selection import SELECTIONS, farthest_first, kmeans


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


@pytest.mark.parametrize("rival", ["gaussian", "patchcore", "padim"])
def test_a_run_of_a_rival_can_be_loaded_and_gives_its_scores(rival: str, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    tiny = [setting for setting in TINY if not setting.startswith("model.")]
    overrides = ["dataset=folder", f"dataset.root={root}", *tiny, f"model={rival}", "scoring.standardise=true"]
    metrics = run_program(overrides, tmp_path / "run")
    assert metrics["training"]["steps"] == 0
    assert sum(metrics["parameters"]["experts"].values()) == 0
    rows = [line.split(",") for line in (tmp_path / "run/scores.csv").read_text().splitlines()[1:]]
    scored = MoLEFlow.load(tmp_path / "run").score([root / row[0] for row in rows])
    assert [repr(one.score) for one in scored] == [row[4] for row in rows]
