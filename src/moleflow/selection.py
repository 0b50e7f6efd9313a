"""Which few patches stand for many."""

import torch
from torch import Tensor

from moleflow.errors import choice

SELECTIONS = ("greedy", "kmeans", "random")
_CHUNK = 4096  # rows of a distance matrix held at a time
_PROJECTED = 32  # channels in which greedy measures
_ROUNDS = 10  # of kmeans


def select(patches: Tensor, size: int, selection: str, generator: torch.Generator) -> Tensor:
    """Return patches that stand for all.

    Args:
        patches: (N, D).
        size: How many to return; all of them, if there are fewer.
        selection: ``greedy`` takes the patch farthest from those taken, seen through a random projection; ``kmeans``
            takes cluster means; ``random`` takes any.
        generator: Source of the draws, on the CPU.

    Returns:
        (min(size, N), D).

    Raises:
        UserError: If the selection is unknown.
    """
    choice("model.selection", selection, SELECTIONS)
    size = min(size, len(patches))
    start = torch.randperm(len(patches), generator=generator)[:size].to(patches.device)
    if selection == "random" or size == len(patches):
        return patches[start]
    if selection == "kmeans":
        return kmeans(patches, patches[start], _ROUNDS)
    projection = torch.randn(patches.shape[1], _PROJECTED, generator=generator).to(patches.device)
    return patches[farthest_first(patches @ projection, int(start[0]), size)]


def nearest_distance(patches: Tensor, memory: Tensor) -> Tensor:
    """Return the distance of each patch (N, D) to the nearest of the memory (K, D), (N,)."""
    return torch.cat([torch.cdist(part, memory).amin(1) for part in torch.split(patches, _CHUNK)])


def farthest_first(points: Tensor, start: int, count: int) -> Tensor:
    """Return indices (count,) of points (N, D), each the farthest from those before it.

    Reference: Gonzalez, "Clustering to minimize the maximum intercluster distance", TCS 1985.
    """
    taken = [start]
    distance = (points - points[start]).square().sum(1)
    while len(taken) < count:
        taken.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[taken[-1]]).square().sum(1))
    return torch.tensor(taken, device=points.device)


def kmeans(points: Tensor, centres: Tensor, rounds: int) -> Tensor:
    """Return cluster means (K, D) of points (N, D) after Lloyd's rounds from ``centres``; an empty one stays put."""
    for _ in range(rounds):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in torch.split(points, _CHUNK)])
        counts = torch.bincount(nearest, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return centres
