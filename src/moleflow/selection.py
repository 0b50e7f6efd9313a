"""Which few patches stand for many, and how far others are from them."""

from typing import NamedTuple

import torch
from torch import Tensor

from moleflow.errors import choice

SELECTIONS = ("greedy", "kmeans", "random")
_CHUNK = 4096  # rows of a distance matrix held at a time
_PROJECTED = 32  # channels in which greedy measures
_ROUNDS = 10  # of kmeans


class Memory(NamedTuple):
    """Some patches of some training pictures.

    Attributes:
        patches: (K, D).
        pictures: (K,) int32, the training picture that each is of; -1 for a mean of several.
    """

    patches: Tensor
    pictures: Tensor


class Nearest(NamedTuple):
    """What of a memory is nearest to some patches.

    Attributes:
        distance: (N,) to the nearest one.
        rows: (N,) which one that is.
    """

    distance: Tensor
    rows: Tensor


def remember(
    grids: Tensor, size: int, selection: str, generator: torch.Generator, pictures: Tensor | None = None
) -> Memory:
    """Return patches that stand for all of some training pictures.

    Args:
        grids: (N, H, W, D).
        size: How many to return; all of them, if there are fewer.
        selection: ``greedy`` takes the patch farthest from those taken, seen through a random projection; ``kmeans``
            takes cluster means; ``random`` takes any.
        generator: Source of the draws, on the CPU.
        pictures: (N,) the picture that each entry shows; None: each shows its own.

    Returns:
        A memory of min(size, N H W) patches.

    Raises:
        UserError: If the selection is unknown.
    """
    choice("model.selection", selection, SELECTIONS)
    patches, each = grids.flatten(0, 2), grids.shape[1] * grids.shape[2]
    size = min(size, len(patches))
    rows = torch.randperm(len(patches), generator=generator)[:size].to(patches.device)
    if selection == "kmeans" and size < len(patches):
        return Memory(kmeans(patches, patches[rows], _ROUNDS), torch.full_like(rows, -1, dtype=torch.int32))
    if selection == "greedy" and size < len(patches):
        projection = torch.randn(patches.shape[1], _PROJECTED, generator=generator).to(patches.device)
        rows = farthest_first(patches @ projection, int(rows[0]), size)
    shown = rows // each
    return Memory(patches[rows], (shown if pictures is None else pictures.to(rows.device)[shown]).int())


def nearest(patches: Tensor, memory: Tensor, leave_out: tuple[Tensor, Tensor] | None = None) -> Nearest:
    """Return the nearest remembered patch of each patch.

    Args:
        patches: (N, D).
        memory: (K, D).
        leave_out: Pictures of the patches (N,) and of the memory (K,): a patch is not compared with those of its own
            picture. Where the memory is of that picture alone, nothing is left out.
    """
    if leave_out is None and torch.compiler.is_exporting():  # a graph has no loop as long as its batch
        return Nearest(*torch.cdist(patches, memory).min(1))
    found = []
    for start in range(0, len(patches), _CHUNK):
        distances = torch.cdist(patches[start : start + _CHUNK], memory)
        if leave_out is not None:
            own = leave_out[0][start : start + _CHUNK, None] == leave_out[1][None]
            distances.masked_fill_(own & ~own.all(1, keepdim=True), torch.inf)
        found.append(distances.min(1))
    return Nearest(torch.cat([part.values for part in found]), torch.cat([part.indices for part in found]))


def leave_own_out(grids: Tensor, pictures: Tensor | None, remembered: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return what :func:`nearest` leaves out for the patches of some training pictures.

    Args:
        grids: (B, H, W, D), one entry a picture.
        pictures: (B,) which training pictures they are; None if they are none.
        remembered: (K,) the training picture that each remembered patch is of; empty if that is not on record.
    """
    if pictures is None or not len(remembered):
        return None
    each = grids.shape[1] * grids.shape[2]
    return pictures.to(remembered).repeat_interleave(each), remembered


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
        closest = nearest(points, centres).rows
        counts = torch.bincount(closest, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, closest, points)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return centres
