"""Batches of patch features in memory: an epoch is a permutation of indices."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from moleflow.utils.random import generator


class FeatureBatch(NamedTuple):
    """A batch of training images of one expert.

    Attributes:
        expert: Name of the expert.
        features: Patch features (B, h, w, D).
        indices: Positions (B,) of the images in the expert's training set.
        weight: Weight of the batch's loss; differs from 1 if a batch is divided unevenly among processes.
    """

    expert: str
    features: Tensor
    indices: Tensor
    weight: float = 1.0


class FeatureLoader:
    """Training batches of one task; each iteration is one epoch in its own order.

    No image is dropped: n images give ceil(n / batch_size) batches of nearly equal size. With several experts in a
    task, each batch belongs to one expert and the batches are shuffled together. In a data-parallel run each process
    gets its share of every batch, so the optimizer sees the same batches as in a single process.

    Args:
        features: Patch features (N, h, w, D) by expert, on the training device.
        batch_size: Largest number of images in an optimizer step.
        seed: Seed of the run.
        task: Index of the task.
        rank: Index of this process.
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
        """Return the number of optimizer steps per epoch."""
        return sum(-(-len(x) // self.batch_size) for x in self.features.values())

    def __iter__(self) -> Iterator[FeatureBatch]:
        """Yield the batches of epoch ``self.epoch``, read when the first batch is requested."""
        batches: list[tuple[str, Tensor]] = []
        for expert, x in self.features.items():
            order = torch.randperm(len(x), generator=generator(self.seed, "order", self.task, expert, self.epoch))
            batches += [(expert, part) for part in order.tensor_split(-(-len(x) // self.batch_size))]
        shuffle = torch.randperm(len(batches), generator=generator(self.seed, "batches", self.task, self.epoch))
        for i in shuffle.tolist():
            expert, indices = batches[i]
            share = indices.tensor_split(self.world_size)[self.rank]
            weight = len(share) * self.world_size / len(indices)
            if not len(share):  # fewer images than processes: participate with weight 0
                share = indices[:1]
            features = self.features[expert]
            yield FeatureBatch(expert, features[share.to(features.device)], share, weight)
