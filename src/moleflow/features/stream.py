"""Patch features of many images in batches, from the feature cache or from memory."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from moleflow.features.extractor import FeatureExtractor
from moleflow.models.batches import Batches, fits_into_chunk


class FeatureStream:
    """Patch features of image files, by default read from the feature cache in each iteration.

    Args:
        parts: Extractors and the files whose features they have, in order; at least one file.
        device: Device of the batches.
    """

    def __init__(self, parts: Sequence[tuple[FeatureExtractor, Sequence[Path]]], device: torch.device | str) -> None:
        self._entries = [(extractor, path) for extractor, paths in parts for path in paths]
        self._device = device
        self._tensor: Tensor | None = None

    def __len__(self) -> int:
        """Return the number N of patch grids."""
        return len(self._entries)

    @property
    def fits_into_memory(self) -> bool:
        """Whether the features are no larger than :data:`~moleflow.models.batches.MAX_CHUNK_BYTES`."""
        return fits_into_chunk(len(self) * self._read(0, 1).nbytes)

    def load(self) -> Tensor:
        """Return the features of all files, (N, h, w, D) on the device, and keep them in memory."""
        if self._tensor is None:
            self._tensor = self._read(0, len(self)).to(self._device)
        return self._tensor

    def batches(self, size: int, count: int | None = None) -> Batches:
        """Return the features in batches (B, h, w, D), which can be iterated several times.

        Args:
            size: Patch grids per batch.
            count: Number of patch grids, the first ones; None: all.
        """
        return Batches(lambda: self._batches(size, len(self) if count is None else count))

    def _batches(self, size: int, count: int) -> Iterator[Tensor]:
        for start in range(0, count, size):
            stop = min(start + size, count)
            yield self._read(start, stop).to(self._device) if self._tensor is None else self._tensor[start:stop]

    def _read(self, start: int, stop: int) -> Tensor:
        groups = groupby(self._entries[start:stop], key=lambda entry: entry[0])
        parts = [extractor.features([path for _, path in group]) for extractor, group in groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts)  # the features of a whole task are not copied
