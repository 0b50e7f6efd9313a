"""Selection of representative patches and search for nearest neighbors."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moleflow.models.batches import chunks, fits_into_chunk
from moleflow.models.tensor_rule import TensorRule
from moleflow.utils.errors import check_choice

SELECTIONS = ("k_center_greedy", "kmeans", "random")
_CHUNK = 4096  # rows of the distance matrix in memory at a time
_CANDIDATES = 512  # farthest points of which k_center_greedy may select several between two updates of all distances
_CANDIDATES_OF_CHUNKS = 8192  # the same, if each update reads all patches from files
_KMEANS_ITERATIONS = 10


class MemoryBank(NamedTuple):
    """Selected patches of training images.

    Attributes:
        patches: (K, D).
        image_ids: (K,) int32, the training image of each patch; -1 for a mean of several patches.
    """

    patches: Tensor
    image_ids: Tensor

    @classmethod
    def of(cls, expert: nn.Module) -> "MemoryBank":
        """Return the memory bank in the buffers of an expert."""
        return cls(*(expert.get_buffer(name) for name in cls._fields))


class NearestNeighbors(NamedTuple):
    """The nearest memory-bank patch of each query patch.

    Attributes:
        distances: (N,) Euclidean distances to it.
        indices: (N,) its row in the memory bank.
    """

    distances: Tensor
    indices: Tensor


def memory_bank_rules(dim: int) -> dict[str, TensorRule]:
    """Return the rules for the tensors of a memory bank of K patches.

    Args:
        dim: Channels D of a patch.
    """
    return {"patches": TensorRule(("K", dim)), "image_ids": TensorRule(("K",), torch.int32)}


def build_memory_bank(
    grids: Iterable[Tensor],
    size: int,
    selection: str,
    generator: torch.Generator,
    image_ids: Tensor | None = None,
) -> MemoryBank:
    """Select patches that represent all patches of the training images.

    Args:
        grids: Patch grids in batches (B, H, W, D), iterated several times.
        size: Number of patches to select; all patches, if there are fewer.
        selection: ``k_center_greedy`` selects the patch that is farthest from those already selected; ``kmeans``
            returns cluster means; ``random`` selects uniformly.
        generator: Source of the draws, on the CPU.
        image_ids: (N,) index of the training image that each grid shows. None: every grid shows another image.

    Returns:
        A memory bank of min(size, N H W) patches.

    Raises:
        UserError: If the selection is unknown.
    """
    check_choice("model.selection", selection, SELECTIONS)
    first = next(iter(grids))
    ids = torch.arange(sum(len(batch) for batch in grids)) if image_ids is None else image_ids
    patches_per_grid = first.shape[1] * first.shape[2]
    count = len(ids) * patches_per_grid
    size = min(size, count)
    rows = torch.randperm(count, generator=generator)[:size].to(first.device)
    if selection == "kmeans" and size < count:
        centers = kmeans(grids, _patches_at(grids, rows), _KMEANS_ITERATIONS)
        return MemoryBank(centers, torch.full_like(rows, -1, dtype=torch.int32))
    if selection == "k_center_greedy" and size < count:
        whole = fits_into_chunk(len(ids) * first[0].nbytes)
        rows, patches = select_from_chunks(grids, int(rows[0]), size, whole)
    else:
        patches = _patches_at(grids, rows)
    return MemoryBank(patches, ids.to(rows.device)[rows // patches_per_grid].int())


def extend_memory_bank(
    bank: MemoryBank,
    grids: Iterable[Tensor],
    former: int,
    selection: str,
    generator: torch.Generator,
    image_ids: Tensor,
) -> MemoryBank:
    """Return a memory bank with patches of further images, as many per image as it has.

    No patch is removed, so that no image is farther from the extended memory bank than from the former one.

    Args:
        bank: The memory bank.
        grids: Patch grids of the further images in batches (B, H, W, D), iterated several times.
        former: Number of grids from which the memory bank was built.
        selection: As for :func:`build_memory_bank`; ``k_center_greedy`` selects the patches that are farthest from
            those of the memory bank and from each other.
        generator: Source of the draws, on the CPU.
        image_ids: (N,) index from 0 of the further image that each grid shows. The former images get the indices after
            those.
    """
    indices = int(image_ids.max()) + 1
    first = next(iter(grids))
    patches_per_grid, size = first.shape[1] * first.shape[2], len(bank.patches)
    count = min(max(1, round(size * len(image_ids) / former)), len(image_ids) * patches_per_grid)
    if selection == "k_center_greedy":
        outside = torch.full_like(bank.image_ids, -1, dtype=torch.int64)
        rows, patches = add_farthest(grids, outside, bank.patches, size + count, _CANDIDATES_OF_CHUNKS)
        ids = image_ids.to(rows.device)[rows[size:] // patches_per_grid].int()
        added = MemoryBank(patches[size:], ids)
    else:
        added = build_memory_bank(grids, count, selection, generator, image_ids)
    former_ids = torch.where(bank.image_ids < 0, bank.image_ids, bank.image_ids + indices)
    return MemoryBank(torch.cat((bank.patches, added.patches)), torch.cat((former_ids, added.image_ids)))


def _patches_at(grids: Iterable[Tensor], rows: Tensor) -> Tensor:
    """Return the patches (K, D) at indices (K,) of all patches, in the order of the indices."""
    parts, positions, start = [], [], 0
    for batch in grids:
        patches = batch.flatten(0, -2)
        inside = ((rows >= start) & (rows < start + len(patches))).nonzero().flatten()
        parts.append(patches[rows[inside] - start])
        positions.append(inside)
        start += len(patches)
    return torch.cat(parts)[torch.cat(positions).argsort()]


def nearest_neighbors(
    patches: Tensor, memory_bank: Tensor, exclusion: tuple[Tensor, Tensor] | None = None
) -> NearestNeighbors:
    """Find the nearest memory-bank patch of each patch.

    Args:
        patches: Query patches (N, D).
        memory_bank: Memory-bank patches (K, D).
        exclusion: Image indices of the query patches (N,) and of the memory bank (K,). A query patch is not compared
            with memory-bank patches of the same image. If all memory-bank patches are of that image, none is excluded.
    """
    if exclusion is None and torch.compiler.is_exporting():  # an exported graph cannot loop over a dynamic batch size
        return NearestNeighbors(*torch.cdist(patches, memory_bank).min(1))
    if exclusion is not None and bool((exclusion[1] == exclusion[1][0]).all()):
        exclusion = None  # a memory bank of one image: nothing would remain for its patches
    # The product of torch.cdist, bit for bit, but the square root is taken of the minima only.
    ones, norms = torch.ones_like(memory_bank[:, :1]), memory_bank.square().sum(1, keepdim=True)
    factor = torch.cat((memory_bank, ones, norms), 1).T
    chunks = []
    for start in range(0, len(patches), _CHUNK):
        rows = patches[start : start + _CHUNK]
        rows = torch.cat((-2 * rows, rows.square().sum(1, keepdim=True), torch.ones_like(rows[:, :1])), 1)
        distances = rows @ factor  # squared
        if exclusion is not None:
            distances.masked_fill_(exclusion[0][start : start + _CHUNK, None] == exclusion[1], torch.inf)
        chunks.append(distances.min(1))
    return NearestNeighbors(
        torch.cat([chunk.values for chunk in chunks]).clamp_min(0).sqrt(),
        torch.cat([chunk.indices for chunk in chunks]),
    )


def own_image_exclusion(
    grids: Tensor, image_ids: Tensor | None, memory_bank_image_ids: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return the argument ``exclusion`` of :func:`nearest_neighbors`.

    It excludes, for patches of training images, memory-bank patches of the same image.

    Args:
        grids: Patch grids (B, H, W, D).
        image_ids: (B,) index of the training image that each grid shows; None for other images.
        memory_bank_image_ids: (K,) index of the training image of each memory-bank patch.

    Returns:
        Image indices of the query patches (B H W,) and of the memory bank (K,); None for other images.
    """
    if image_ids is None:
        return None
    patches_per_grid = grids.shape[1] * grids.shape[2]
    return image_ids.to(memory_bank_image_ids).repeat_interleave(patches_per_grid), memory_bank_image_ids


def k_center_greedy(points: Tensor, start: int, count: int) -> Tensor:
    """Return indices (count,) of points that are each farthest from those before.

    Reference: Gonzalez, "Clustering to minimize the maximum intercluster distance", TCS 1985.

    Args:
        points: (N, D).
        start: Index of the first selected point.
        count: Number of points to select, at most N.
    """
    first = torch.tensor([start], device=points.device)
    return add_farthest([points], first, points[first], count, _CANDIDATES)[0]


def select_from_chunks(grids: Iterable[Tensor], start: int, count: int, whole: bool) -> tuple[Tensor, Tensor]:
    """Select patches by k-center greedy, with a bounded number of patches in memory.

    If all patches fit into one chunk, this is :func:`k_center_greedy`. Otherwise, one half is selected in two steps:
    as many from each chunk, then from these. The other half consists of the patches of all chunks that are each
    farthest from those before, so that the largest distance to a selected patch is close to that of the selection from
    all patches.

    Reference: Malkomes et al., "Fast Distributed k-Center Clustering with Outliers on Massive Data", NeurIPS 2015, for
    the first half.

    Args:
        grids: Patch grids in batches (B, H, W, D), iterated several times.
        start: Index of the first selected patch among all patches.
        count: Number of patches to select, at most that of all patches.
        whole: Whether all patches fit into one chunk.

    Returns:
        Indices (count,) among all patches, and the patches (count, D).
    """
    rows, patches, offset = [], [], 0
    for chunk in chunks(grids):
        points = chunk.flatten(0, 2)
        first = start - offset if offset <= start < offset + len(points) else 0
        selected = k_center_greedy(points, first, min(count if whole else -(-count // 2), len(points)))
        rows.append(selected + offset)
        patches.append(points[selected])
        offset += len(points)
        del chunk, points  # before the next chunk is read
    all_rows, candidates = torch.cat(rows), torch.cat(patches)
    if whole:
        return all_rows, candidates
    half = k_center_greedy(candidates, int((all_rows == start).nonzero()), -(-count // 2))
    return add_farthest(grids, all_rows[half], candidates[half], count, _CANDIDATES_OF_CHUNKS)


def add_farthest(
    grids: Iterable[Tensor], rows: Tensor, patches: Tensor, count: int, candidates: int
) -> tuple[Tensor, Tensor]:
    """Extend a selection by patches that are each farthest from those before.

    The result is that of one step per selected patch, but the distances of all patches are updated for many selected
    patches at a time, in one iteration over the patches: distances only decrease, so as long as one of the farthest
    patches of the last update is farther than all but these were then, the other patches need no update.

    Args:
        grids: Patch grids, or points, in batches (B, ..., D), iterated several times.
        rows: Indices (F,) of the selected patches among all patches, at least one; -1 for a patch of other images.
        patches: The selected patches (F, D).
        count: Number of patches to select in total, at most that of all patches.
        candidates: Number of farthest patches of which several may be selected between two updates.

    Returns:
        Indices (count,) among all patches, and the patches (count, D).
    """
    selected, new = [(rows, patches)], (rows, patches, patches.square().sum(1))
    missing = count - len(rows)
    norms: list[Tensor] = []
    distances: list[Tensor] = []  # of each batch, squared; minus infinity for selected patches
    while missing > 0:
        parts, offset = [], 0
        for i, batch in enumerate(grids):
            points = batch.flatten(0, -2)
            if i == len(norms):
                norms.append(points.square().sum(1))
                distances.append(torch.full_like(norms[i], torch.inf))
            for part in torch.split(torch.arange(len(points), device=points.device), _CHUNK):
                nearest = torch.addmm(new[2], points[part], new[1].T, alpha=-2).amin(1) + norms[i][part]
                distances[i][part] = torch.minimum(distances[i][part], nearest)
            distances[i][new[0][(new[0] >= offset) & (new[0] < offset + len(points))] - offset] = -torch.inf
            farthest = distances[i].topk(min(candidates + 1, len(points)))
            parts.append(
                (farthest.values, farthest.indices + offset, points[farthest.indices], norms[i][farthest.indices])
            )
            if len(parts) > 1:
                values, *others = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
                merged = values.topk(min(candidates + 1, len(values)))
                places, patches, patch_norms = (tensor[merged.indices] for tensor in others)
                parts = [(merged.values, places, patches, patch_norms)]
            offset += len(points)
        values, indices, among, among_norms = parts[0]
        limit = float(values[candidates:].amax()) if len(values) > candidates else -math.inf
        remaining, among, among_norms = values[:candidates].clone(), among[:candidates], among_norms[:candidates]
        gaps = torch.addmm(among_norms, among, among.T, alpha=-2) + among_norms[:, None]
        chosen: list[int] = []
        while len(chosen) < missing:
            best = int(remaining.argmax())
            if chosen and float(remaining[best]) < limit:
                break
            chosen.append(best)
            torch.minimum(remaining, gaps[best], out=remaining)
            remaining[best] = -torch.inf
        new = indices[chosen], among[chosen], among_norms[chosen]
        selected.append(new[:2])
        missing -= len(chosen)
    all_rows, all_patches = zip(*selected, strict=True)
    return torch.cat(all_rows), torch.cat(all_patches)


def kmeans(grids: Iterable[Tensor], centers: Tensor, iterations: int) -> Tensor:
    """Return cluster means (K, D) after iterations of Lloyd's algorithm.

    Empty clusters do not move.

    Args:
        grids: Patch grids, or points, in batches (B, ..., D), iterated in each iteration.
        centers: Initial cluster means (K, D).
        iterations: Number of iterations.
    """
    for _ in range(iterations):
        counts, sums = torch.zeros(len(centers), 1, dtype=torch.int64, device=centers.device), torch.zeros_like(centers)
        for chunk in chunks(grids):
            points = chunk.flatten(0, -2)
            clusters = nearest_neighbors(points, centers).indices
            counts += torch.bincount(clusters, minlength=len(centers))[:, None]
            sums.index_add_(0, clusters, points)
            del chunk, points  # before the next chunk is read
        centers = torch.where(counts > 0, sums / counts.clamp_min(1), centers)
    return centers
