"""From paths of pictures to their patch grids, each computed once."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from moleflow.data.read import read_picture
from moleflow.errors import UserError
from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import FeatureStore, MemoryStore
from moleflow.randomness import generator


class Transform(Protocol):
    """A deterministic map from a picture to the backbone's input, and what it depends on."""

    def __call__(self, picture: Image.Image) -> Tensor: ...
    def spec(self) -> dict[str, object]: ...


def feature_spec(
    backbone: PatchBackbone, transform: Transform, batch_size: int = 1, device: torch.device | str = "cpu"
) -> dict[str, object]:
    """Return what features depend on besides the picture: the specification for a cache.

    Batch size and kind of device belong to it because they choose the kernels, and with them the last bits.
    """
    return {
        "backbone": backbone.spec(),
        "transform": transform.spec(),
        "batch_size": batch_size,
        "device": torch.device(device).type,
    }


class FeatureExtractor:
    """Gives the features of pictures, from the cache where they are, from the backbone where they are not.

    The backbone always sees batches of exactly ``batch_size`` pictures (the last one is filled up by repetition), so
    that a picture's features do not depend on the others that were asked for with it. What is returned went through
    the cache's storage type, computed just now or long ago.

    Args:
        backbone: Moved to ``device``.
        transform: Applied to each picture.
        cache: Where features are kept; ``None`` keeps them in memory for the life of this object.
        batch_size: Pictures per forward pass.
        device: Where the backbone runs. Features are returned on the CPU.
        num_workers: Processes that read and transform pictures; 0 reads in this one.

    Attributes:
        hits: Pictures answered from the cache so far.
        misses: Pictures that the backbone computed so far.
    """

    def __init__(
        self,
        backbone: PatchBackbone,
        transform: Transform,
        cache: FeatureStore | None = None,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"features.batch_size={batch_size} must be at least 1.")
        if num_workers < 0:
            raise UserError(f"features.num_workers={num_workers} must be at least 0 (0: no process but this one).")
        self.backbone = backbone.to(device)
        self.transform = transform
        self.cache: FeatureStore = MemoryStore() if cache is None else cache
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.num_workers = num_workers
        self.hits = 0
        self.misses = 0

    def extract(self, paths: Sequence[Path], progress: str | None = None) -> None:
        """Compute and keep the features that are not kept yet.

        Args:
            paths: Pictures; the same content twice is computed once.
            progress: Text of a progress bar on standard error; none without it.

        Raises:
            UserError: If a picture cannot be read, its features are not finite, or the cache cannot be written.
        """
        missing: dict[str, Path] = {}
        for path in paths:
            key = self.cache.key(Path(path))
            if key in self.cache or key in missing:
                self.hits += 1
            else:
                missing[key] = Path(path)
        for _ in self._compute(missing, progress):
            pass  # kept in the cache, and not here: a data set's features need not fit into memory

    def features(self, paths: Sequence[Path]) -> Tensor:
        """Return the features of pictures, computing what is not kept or is damaged.

        Args:
            paths: At least one picture; all give one grid, as they share the transform.

        Returns:
            Float32 CPU tensor of shape (N, h, w, D).

        Raises:
            UserError: As :meth:`extract`.
        """
        keys = [self.cache.key(Path(path)) for path in paths]
        found = {key: self.cache.load(key) for key in dict.fromkeys(keys)}
        missing = {key: Path(path) for key, path in zip(keys, paths, strict=True) if found[key] is None}
        self.hits += len(keys) - len(missing)
        found.update(self._compute(missing))
        return torch.stack([tensor.float() for key in keys if (tensor := found[key]) is not None])

    def _compute(self, missing: dict[str, Path], progress: str | None = None) -> Iterator[tuple[str, Tensor]]:
        """Run the backbone over ``missing`` and keep each result before it is yielded, in the cache's type."""
        keys = iter(missing)
        silent = progress is None or not missing
        with tqdm(total=len(missing), desc=progress, unit="picture", file=sys.stderr, disable=silent) as bar:
            for batch in self._batches(list(missing.values())):
                count = len(batch)
                filled = torch.cat((batch, batch[-1:].expand(self.batch_size - count, -1, -1, -1)))
                for grid in self.backbone(filled.to(self.device)).cpu()[:count].to(self.cache.dtype):
                    key = next(keys)
                    if not grid.isfinite().all():
                        raise UserError(
                            f"The features of {missing[key]} are not finite in {self.cache.dtype}. Keep features as "
                            "float32, and check the picture and the backbone's weights."
                        )
                    self.cache.store(key, grid)
                    self.misses += 1
                    yield key, grid
                bar.update(count)

    def _batches(self, paths: list[Path]) -> Iterator[Tensor]:
        if not paths:
            return
        loader = DataLoader(
            _Pictures(paths, self.transform),
            batch_size=self.batch_size,
            num_workers=min(self.num_workers, len(paths)),
            collate_fn=list,
            generator=generator(0, "feature loader"),  # the loader draws a seed, which must not move the global state
        )
        for batch in loader:
            for item in batch:
                if isinstance(item, UserError):
                    raise item
            yield torch.stack(batch)


class _Pictures(Dataset[Tensor | UserError]):
    """Reads and transforms; hands a user's fault on as a value, as a worker process would wrap it in a traceback."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | UserError:
        try:
            return self.transform(read_picture(self.paths[index]))
        except UserError as error:
            return error
