"""Training batches from features that are already in memory: an epoch is a permutation of indices."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from moleflow.randomness import generator


class FeatureBatch(NamedTuple):
    """Some pictures of one expert.

    Attributes:
        expert: Name of the expert.
        features: Patch features (B, H, W, D).
        indices: Positions of the pictures in the expert's training set (B,).
        weight: Weight of this batch's loss; 1 unless a batch is spread unevenly over processes.
    """

    expert: str
    features: Tensor
    indices: Tensor
    weight: float = 1.0


class FeatureBatches:
    """One task's training set; every pass over it is one epoch in its own order.

    No picture is dropped: n pictures make ceil(n / batch_size) batches of nearly equal size. With several experts in
    a task each batch belongs to one of them and the batches are shuffled together. Under data parallelism each
    process takes its share of every batch, so that the optimizer sees the same batches as one process alone.

    Args:
        features: Patch features (N, H, W, D) by expert, on the device that trains.
        batch_size: Largest number of pictures in one optimizer step.
        seed: The run's seed.
        task: Index of the task.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self, features: dict[str, Tensor], batch_size: int, seed: int, task: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.features = features
        self.batch_size = batch_size
        self.seed = seed
        self.task = task
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def __len__(self) -> int:
        """Number of optimizer steps in an epoch."""
        return sum(-(-len(x) // self.batch_size) for x in self.features.values())

    def __iter__(self) -> Iterator[FeatureBatch]:
        """Yield the batches of the epoch that ``self.epoch`` names when the first one is asked for."""
        chosen: list[tuple[str, Tensor]] = []
        for expert, x in self.features.items():
            order = torch.randperm(len(x), generator=generator(self.seed, "order", self.task, expert, self.epoch))
            chosen += [(expert, part) for part in order.tensor_split(-(-len(x) // self.batch_size))]
        shuffle = torch.randperm(len(chosen), generator=generator(self.seed, "batches", self.task, self.epoch))
        for i in shuffle.tolist():
            expert, indices = chosen[i]
            share = indices.tensor_split(self.world_size)[self.rank]
            weight = len(share) * self.world_size / len(indices)
            if not len(share):  # fewer pictures than processes: take part with weight 0
                share = indices[:1]
            features = self.features[expert]
            yield FeatureBatch(expert, features[share.to(features.device)], share, weight)
