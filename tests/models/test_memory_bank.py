"""Tests of patch selection, nearest neighbors and models with a memory bank."""

import numpy as np
import pytest
import torch

from helpers.tensors import random_grids
from moleflow.detector.registry import build_component
from moleflow.models import memory_bank
from moleflow.models.base import PatchModel
from moleflow.models.memory_bank import build_memory_bank, k_center_greedy, kmeans, nearest_neighbors
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator

MODELS = {
    "flow": {
        "_target_": "moleflow.models.flow.memory_flow.MemoryBankFlow",
        "dim": 8,
        "coupling_layers": 1,
        "adapter": "closed_form_whitening",
        "spatial_context_mode": "blur",
    },
    "patchcore": {"_target_": "moleflow.models.closed_form.patchcore.PatchCore", "dim": 8, "size": 20},
    "mixture": {"_target_": "moleflow.models.closed_form.mixture.MixtureModel", "dim": 8, "size": 20},
}


def new_model(kind: str) -> PatchModel:
    model: PatchModel = build_component("model", MODELS[kind])
    model.add_expert("a")
    return model


def test_k_center_greedy_selects_outliers() -> None:
    points = torch.cat((torch.randn(200, 2, generator=generator(0, "points")), torch.tensor([[50.0, 0], [0, 50.0]])))
    assert {200, 201} <= set(k_center_greedy(points, 0, 3).tolist())


def test_kmeans_finds_separate_clusters() -> None:
    centers = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    points = (centers[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator(0, "k"))).flatten(0, 1)
    torch.testing.assert_close(
        kmeans([points[:40], points[40:]], points[[0, 60, 120]], 5), points.reshape(3, 50, 2).mean(1)
    )


def test_nearest_neighbor_of_another_image() -> None:
    x, bank = random_grids(3), build_memory_bank([random_grids(3)], 25, "random", generator(0, "memory"))
    rows, image_ids = x.flatten(0, 2), torch.arange(3).repeat_interleave(20)
    neighbors = nearest_neighbors(rows, bank.patches, (image_ids, bank.image_ids))
    for i, row in enumerate(rows):
        others = [j for j in range(25) if bank.image_ids[j] != image_ids[i]]
        distances = [float((row - bank.patches[j]).norm()) for j in others]
        assert int(neighbors.indices[i]) == others[int(np.argmin(distances))]
        assert float(neighbors.distances[i]) == pytest.approx(min(distances), rel=1e-4)


def test_neighbors_equal_those_of_torch_cdist_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_bank, "_CHUNK", 32)
    x, centers = random_grids(4).flatten(0, 2), random_grids(2, seed=1).flatten(0, 2)
    expected = torch.cdist(x, centers).min(1)
    neighbors = nearest_neighbors(x, centers)
    assert torch.equal(neighbors.distances, expected.values)
    assert torch.equal(neighbors.indices, expected.indices)


@pytest.mark.parametrize("candidates", [1, 3, 100])
def test_k_center_greedy_equals_a_loop_over_all_distances(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_bank, "_CANDIDATES", candidates)
    monkeypatch.setattr(memory_bank, "_CHUNK", 16)
    points, selected = random_grids(3, dim=5).flatten(0, 2).double(), [7]
    for _ in range(29):
        selected.append(int(torch.stack([(points - points[i]).square().sum(1) for i in selected]).amin(0).argmax()))
    assert k_center_greedy(points, 7, 30).tolist() == selected


@pytest.mark.parametrize("candidates", [2, 100])
def test_equal_points_are_selected_once_each(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_bank, "_CANDIDATES", candidates)
    points = torch.cat((torch.ones(6, 3) / 3, torch.zeros(4, 3)))
    selected = k_center_greedy(points, 0, 10).tolist()
    assert sorted(selected) == list(range(10))
    assert selected[1] >= 6


def test_memory_bank_of_one_image_excludes_nothing() -> None:
    rows, image_ids = random_grids(1).flatten(0, 2), torch.zeros(20)
    assert nearest_neighbors(rows, rows, (image_ids, image_ids)).indices.tolist() == list(range(20))


def test_augmentations_of_an_image_share_its_index() -> None:
    grids, image_ids = random_grids(4), torch.tensor([0, 1, 0, 1])
    bank = build_memory_bank([grids], 10**6, "random", generator(0, "memory"), image_ids)
    indices = nearest_neighbors(bank.patches, grids.flatten(0, 2)).indices // 20
    assert torch.equal(bank.image_ids.long(), image_ids[indices])


def test_unknown_selection_raises() -> None:
    with pytest.raises(UserError, match=r"model\.selection=gredy.*k_center_greedy"):
        build_memory_bank([random_grids()], 5, "gredy", generator(0, "memory"))


@pytest.mark.parametrize("kind", MODELS)
def test_state_dict_restores_scores_with_and_without_exclusion(kind: str) -> None:
    grids, training = random_grids(6), torch.arange(2)
    model, restored = new_model(kind), new_model(kind)
    model.fit("a", [grids])
    restored.load_expert_state("a", model.expert_state("a"))
    for image_ids in (None, training):
        scores = model.patch_scores(grids[:2], "a", image_ids)
        assert torch.equal(restored.patch_scores(grids[:2], "a", image_ids), scores)
    assert not torch.equal(model.patch_scores(grids[:2], "a", training), model.patch_scores(grids[:2], "a"))


@pytest.mark.parametrize("kind", ["patchcore", "mixture"])
def test_excluding_the_own_image_gives_scores_like_those_of_new_images(kind: str) -> None:
    model = build_component("model", MODELS[kind] | {"size": 40})
    x, new = random_grids(6), random_grids(6, seed=7)
    model.add_expert("a")
    model.fit("a", [x])
    training, excluded = model.patch_scores(x, "a"), model.patch_scores(x, "a", torch.arange(6))
    fresh = model.patch_scores(new, "a")
    assert float(excluded.mean()) > float(training.mean())
    assert abs(float(excluded.mean() - fresh.mean())) < 0.5 * abs(float(training.mean() - fresh.mean()))
