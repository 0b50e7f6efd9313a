"""Tests of the batches of an epoch."""

import math

import pytest
import torch

from moleflow.training.data_loader import FeatureLoader


@pytest.mark.parametrize(("images", "size"), [(9, 4), (8, 4), (3, 4), (31, 4), (1, 16)])
def test_every_image_is_once_in_batches_of_nearly_equal_size(images: int, size: int) -> None:
    loader = FeatureLoader({"a": torch.arange(images).view(-1, 1, 1, 1).float()}, size, seed=0, task=0)
    batches = list(loader)
    assert len(batches) == len(loader) == math.ceil(images / size)
    assert sorted(int(x) for batch in batches for x in batch.features.flatten()) == list(range(images))
    assert all(torch.equal(batch.features.flatten().long(), batch.indices) for batch in batches)
    sizes = [len(batch.indices) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size


def test_order_depends_on_seed_task_and_epoch() -> None:
    def order(seed: int = 0, task: int = 0, epoch: int = 0) -> list[int]:
        loader = FeatureLoader({"a": torch.arange(50).view(-1, 1, 1, 1).float()}, 8, seed, task)
        loader.epoch = epoch
        return [int(i) for batch in loader for i in batch.indices]

    assert order() == order()
    assert len({tuple(order(*arguments)) for arguments in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}) == 4


def test_each_batch_has_one_expert_and_batches_are_shuffled() -> None:
    features = {"a": torch.zeros(9, 1, 1, 1), "b": torch.ones(9, 1, 1, 1)}
    batches = list(FeatureLoader(features, 2, seed=0, task=0))
    assert all((batch.features == (batch.expert == "b")).all() for batch in batches)
    names = [batch.expert for batch in batches]
    assert names != sorted(names)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_every_batch(world_size: int) -> None:
    features = {"a": torch.arange(11).view(-1, 1, 1, 1).float()}
    batches = list(FeatureLoader(features, 4, 0, 0))
    shares = [list(FeatureLoader(features, 4, 0, 0, rank, world_size)) for rank in range(world_size)]
    for i, batch in enumerate(batches):
        parts = [share[i] for share in shares]
        # DDP averages over processes: the weighted means of the shares average to the mean of the whole batch.
        mean = sum(part.features.mean() * part.weight for part in parts) / world_size
        torch.testing.assert_close(mean, batch.features.mean())
