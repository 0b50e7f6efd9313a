"""An epoch's batches and the learning rate: against slow literal versions."""

import math

import pytest
import torch

from moleflow.training.data_loader import FeatureLoader
from moleflow.training.lightning_module import learning_rate_factor


@pytest.mark.parametrize(("images", "size"), [(9, 4), (8, 4), (3, 4), (31, 4), (1, 16)])
def test_every_image_comes_once_an_epoch_in_even_batches(images: int, size: int) -> None:
    batches = FeatureLoader({"a": torch.arange(images).view(-1, 1, 1, 1).float()}, size, seed=0, task=0)
    seen = list(batches)
    assert len(seen) == len(batches) == math.ceil(images / size)
    assert sorted(int(x) for batch in seen for x in batch.features.flatten()) == list(range(images))
    assert all(torch.equal(b.features.flatten().long(), b.indices) for b in seen)
    assert max(len(b.indices) for b in seen) - min(len(b.indices) for b in seen) <= 1
    assert max(len(b.indices) for b in seen) <= size


def test_the_order_belongs_to_seed_task_and_epoch() -> None:
    def order(seed: int = 0, task: int = 0, epoch: int = 0) -> list[int]:
        batches = FeatureLoader({"a": torch.arange(50).view(-1, 1, 1, 1).float()}, 8, seed, task)
        batches.epoch = epoch
        return [int(i) for batch in batches for i in batch.indices]

    assert order() == order()
    assert len({tuple(order(*place)) for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}) == 4


def test_batches_of_several_experts_stay_apart_and_are_mixed() -> None:
    features = {"a": torch.zeros(9, 1, 1, 1), "b": torch.ones(9, 1, 1, 1)}
    seen = list(FeatureLoader(features, 2, seed=0, task=0))
    assert all((batch.features == (batch.expert == "b")).all() for batch in seen)
    names = [batch.expert for batch in seen]
    assert names != sorted(names)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(world: int) -> None:
    features = {"a": torch.arange(11).view(-1, 1, 1, 1).float()}
    alone = list(FeatureLoader(features, 4, 0, 0))
    shares = [list(FeatureLoader(features, 4, 0, 0, rank, world)) for rank in range(world)]
    for i, whole in enumerate(alone):
        parts = [share[i] for share in shares]
        # what each process averages, weighted, averages over processes to the mean of the whole batch
        mean = sum(part.features.mean() * part.weight for part in parts) / world
        torch.testing.assert_close(mean, whole.features.mean())


@pytest.mark.parametrize("epochs", [1, 2, 5, 60])
def test_schedule_of_the_first_task_is_torchs_cosine(epochs: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs, eta_min=3e-6)
    for epoch in range(epochs):
        assert 3e-4 * learning_rate_factor(epoch, epochs, warmup=False) == pytest.approx(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()


def test_schedule_of_later_tasks_warms_up_and_ends_two_epochs_early() -> None:
    factors = [learning_rate_factor(epoch, 60, warmup=True) for epoch in range(60)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[3] == learning_rate_factor(1, 60, warmup=False)
    assert 3e-4 * factors[-1] == pytest.approx(4.8e-6, abs=5e-8)
