"""Tests of fits whose patches do not fit into one chunk."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from helpers.memory import TensorMemory
from helpers.tensors import random_grids
from moleflow.models import batches, memory_bank
from moleflow.models.base import PatchModel
from moleflow.models.batches import Batches, chunks
from moleflow.models.closed_form.mixture import MixtureModel
from moleflow.models.closed_form.padim import PaDiM
from moleflow.models.closed_form.patchcore import PatchCore
from moleflow.models.memory_bank import build_memory_bank, k_center_greedy, nearest_neighbors
from moleflow.utils.random import generator

GRID_BYTES = 4 * 5 * 8 * 4


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit a chunk to five grids."""
    monkeypatch.setattr(batches, "MAX_CHUNK_BYTES", 5 * GRID_BYTES)


def generated(count: int, dim: int = 8) -> Batches:
    """Return ``count`` batches of two grids, which are generated in each iteration."""

    def generate() -> Iterator[Tensor]:
        return (random_grids(dim=dim, seed=i) for i in range(count))

    return Batches(generate)


@pytest.mark.usefixtures("small_chunks")
def test_chunks_are_the_concatenated_batches() -> None:
    parts = list(chunks(generated(7)))
    assert [len(part) for part in parts] == [4, 4, 4, 2]
    assert torch.equal(torch.cat(parts), torch.cat(list(generated(7))))
    assert [len(part) for part in chunks(generated(3), copies=5)] == [2, 2, 2]  # a batch is not divided
    assert list(chunks([])) == []


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    "model",
    [PaDiM(8, channels=6), MixtureModel(8, size=10**6), PatchCore(8, size=10**6)],
    ids=lambda m: type(m).__name__,
)
def test_scores_do_not_depend_on_the_chunks(model: PatchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    x, ids = random_grids(3, seed=99), torch.arange(14) % 7
    for name in ("small", "whole"):
        model.add_expert(name)
    model.fit("small", generated(7), ids)
    monkeypatch.undo()
    model.fit("whole", generated(7), ids)
    for images in (None, torch.arange(3)):
        scores = model.patch_scores(x, "small", images)
        torch.testing.assert_close(scores, model.patch_scores(x, "whole", images), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("small_chunks")
def test_random_patches_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    small, means = (build_memory_bank(generated(7), 30, kind, generator(0, "m")) for kind in ("random", "kmeans"))
    monkeypatch.undo()
    whole, expected = (build_memory_bank(generated(7), 30, kind, generator(0, "m")) for kind in ("random", "kmeans"))
    assert torch.equal(small.patches, whole.patches)
    assert torch.equal(small.image_ids, whole.image_ids)
    torch.testing.assert_close(means.patches, expected.patches)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("seed", range(5))
def test_selection_of_chunks_covers_all_patches_as_well_as_that_of_all(seed: int) -> None:
    bank = build_memory_bank(generated(30), 40, "k_center_greedy", generator(seed, "m"))
    grids = torch.cat(list(generated(30)))
    points = grids.flatten(0, 2)
    assert len(bank.patches.unique(dim=0)) == 40
    for patch, image in zip(bank.patches, bank.image_ids.tolist(), strict=True):
        assert (grids[image].flatten(0, 1) == patch).all(1).any()
    start = int(torch.randperm(len(points), generator=generator(seed, "m"))[0])
    radii = [
        nearest_neighbors(points, selected).distances.max()
        for selected in (bank.patches, points[k_center_greedy(points, start, 40)])
    ]
    assert radii[0] <= 1.05 * radii[1]


@pytest.mark.parametrize(
    "model", [PaDiM(64, channels=8), MixtureModel(64, size=4), PatchCore(64, size=4)], ids=lambda m: type(m).__name__
)
def test_memory_of_a_fit_does_not_grow_with_the_images(model: PatchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    size, peaks = random_grids(dim=64).nbytes, []
    monkeypatch.setattr(batches, "MAX_CHUNK_BYTES", 2 * size)
    monkeypatch.setattr(memory_bank, "_CANDIDATES_OF_CHUNKS", 20)
    for count in (10, 40):
        model.add_expert(str(count))
        with TensorMemory() as memory:
            model.fit(str(count), generated(count, dim=64))
        peaks.append(memory.peak)
    # A distance of each patch, and four patches of each chunk of 80, remain in memory.
    assert peaks[1] - peaks[0] < 0.2 * (40 - 10) * size


def test_iterator_is_an_error() -> None:
    model = PatchCore(8)
    model.add_expert("a")
    with pytest.raises(TypeError, match="only once"):
        model.fit("a", iter([random_grids()]))
