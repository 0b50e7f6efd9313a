"""Batches of patch grids that are iterated several times, and their concatenation to chunks of bounded memory."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

MAX_CHUNK_BYTES = 2**30
"""Largest memory of a chunk. Results do not depend on it as long as the patches of an expert fit into one chunk."""


class Batches:
    """Iterable over batches that a function generates again in each iteration.

    Args:
        generate: Returns an iterator over the batches.
    """

    def __init__(self, generate: Callable[[], Iterator[Tensor]]) -> None:
        self._generate = generate

    def __iter__(self) -> Iterator[Tensor]:
        """Return a new iterator over the batches."""
        return self._generate()


def fits_into_chunk(size: int) -> bool:
    """Return whether tensors of this many bytes fit into one chunk."""
    return size <= MAX_CHUNK_BYTES


def chunks(batches: Iterable[Tensor], copies: int = 1) -> Iterator[Tensor]:
    """Yield the concatenation of the batches in chunks of at most :data:`MAX_CHUNK_BYTES`.

    A consumer that deletes a chunk before it requests the next one has twice this memory at most.

    Args:
        batches: Tensors (B, ...); a larger one is a chunk of its own.
        copies: Number of tensors of a chunk's size that the consumer needs at a time; chunks are smaller by it.
    """
    parts: list[Tensor] = []
    for batch in batches:
        if parts and not fits_into_chunk(copies * sum(part.nbytes for part in (*parts, batch))):
            yield _concatenation(parts)
        parts.append(batch)
    if parts:
        yield _concatenation(parts)


def _concatenation(parts: list[Tensor]) -> Tensor:
    """Return the concatenation of tensors, and empty the list, so that it does not occupy their memory any longer."""
    chunk = torch.cat(parts)
    parts.clear()
    return chunk
