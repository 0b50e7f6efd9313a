"""Feature extraction: patch grids of images, from the cache or from the backbone."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from moleflow.data.dataset import ImageLoader, image_loader
from moleflow.data.image_io import ImageSource, rgb_image
from moleflow.data.samples import ImageT, image_path
from moleflow.data.transforms import Transform
from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import FeatureCache, MemoryFeatureCache
from moleflow.features.parallel import map_on_threads
from moleflow.utils.errors import UserError, check_range


def feature_spec(
    backbone: PatchBackbone, transform: Transform, batch_size: int = 1, device: torch.device | str = "cpu"
) -> dict[str, object]:
    """Return the settings that features depend on besides the image, as JSON types.

    Batch size and kind of device are part of it, because they determine the kernels and thereby the last bits.

    Args:
        backbone: The backbone.
        transform: The transform of its images.
        batch_size: Images per forward pass.
        device: Device of the backbone.
    """
    return {
        "backbone": backbone.spec(),
        "transform": transform.spec(),
        "batch_size": batch_size,
        "device": torch.device(device).type,
    }


class FeatureExtractor:
    """Features of images, computed by the backbone once and cached.

    The backbone always gets batches of exactly ``batch_size`` images (smaller ones are padded by repetition), so that
    the features of an image do not depend on the other images. All features pass through the storage type of the cache,
    so that computed and cached features are equal.

    To extract a data set with the loader of a data module::

        samples = extractor.missing(data.samples("train", "bottle"))
        extractor.extract(data.loader(samples, transform=extractor.transform, batch_size=extractor.batch_size))

    Args:
        backbone: The backbone; moved to ``device``.
        transform: Transform of each image.
        cache: Cache of the features; by default in memory, for the lifetime of this object.
        batch_size: Images per forward pass.
        device: Device of the backbone. Features are returned on the CPU.
        num_workers: Processes in which `features` decodes images; 0 decodes in this process.

    Attributes:
        hits: Number of images that needed no computation so far.
        misses: Number of images that the backbone computed so far.

    Raises:
        UserError: If the batch size or the number of workers is too small.
    """

    def __init__(
        self,
        backbone: PatchBackbone,
        transform: Transform,
        cache: FeatureCache | None = None,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
    ) -> None:
        check_range("features.batch_size", batch_size, 1)
        check_range("features.num_workers", num_workers, 0, hint="With 0, this process decodes the images.")
        self.backbone = backbone.to(device)
        self.transform = transform
        self.cache: FeatureCache = MemoryFeatureCache() if cache is None else cache
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.num_workers = num_workers
        self.hits = 0
        self.misses = 0

    def missing(self, images: Sequence[ImageT]) -> list[ImageT]:
        """Return the images whose features are not cached, in their order; of equal files, the first.

        The other images are counted as hits.

        Args:
            images: Samples or paths.

        Raises:
            UserError: If a file cannot be read.
        """
        missing: dict[str, ImageT] = {}
        for image in images:
            key = self.cache.key(image_path(image))
            if key in self.cache or key in missing:
                self.hits += 1
            else:
                missing[key] = image
        return list(missing.values())

    def extract(self, loader: ImageLoader, progress: str | None = None) -> None:
        """Compute and cache the features of all images of a loader.

        Args:
            loader: Loader with the transform of this extractor, over the result of `missing`; may be empty. Its batch
                size should be that of the extractor; any other gives the same features with more padding.
            progress: Label of a progress bar on standard error; by default none is shown.

        Raises:
            UserError: If an image cannot be read, its features are not finite, or the cache cannot be written.
            ValueError: If the loader has another transform.
        """
        for _ in self._compute(loader, progress):
            pass  # cached only: the features of a data set may not fit into memory

    def features(self, images: Sequence[ImageSource]) -> Tensor:
        """Return the features of images; those of files are taken from the cache where possible.

        Args:
            images: At least one file or image in memory; the latter are not cached.

        Returns:
            Float32 tensor (N, h, w, D) on the CPU.

        Raises:
            UserError: If an image cannot be read, its features are not finite, or the cache cannot be written.
        """
        grids: list[Tensor | None] = [None] * len(images)
        paths = {i: Path(image) for i, image in enumerate(images) if isinstance(image, (str, Path))}
        for i, grid in zip(paths, self._features_of_files(list(paths.values())), strict=True):
            grids[i] = grid
        for i, image in enumerate(images):
            if i not in paths:
                grids[i] = self._features_in_memory(image)
        return torch.stack([grid.float() for grid in grids if grid is not None])

    def _features_of_files(self, paths: Sequence[Path]) -> Iterator[Tensor]:
        """Yield the patch grid (h, w, D) of each file, in the cache's type."""
        keys = [self.cache.key(path) for path in paths]
        grids = {key: self.cache.load(key) for key in dict.fromkeys(keys)}  # None if missing or damaged
        missing = {key: path for key, path in zip(keys, paths, strict=True) if grids[key] is None}
        self.hits += len(keys) - len(missing)
        loader = image_loader(
            list(missing.values()), self.transform, batch_size=self.batch_size, num_workers=self.num_workers
        )
        grids.update(self._compute(loader))
        return (grid for key in keys if (grid := grids[key]) is not None)

    def _features_in_memory(self, image: ImageSource) -> Tensor:
        """Return the patch grid (h, w, D) of an image in memory, in the cache's type.

        Raises:
            UserError: If it is no image, or its features are not finite.
        """
        _, (grid,) = self._grids(([0], self.transform(rgb_image(image, self.transform.input_range))[None]))
        self.misses += 1
        return self._checked(grid, "an image in memory")

    def _compute(self, loader: ImageLoader, progress: str | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield key and patch grid (h, w, D) of each image of a loader, after it is cached; in the cache's type."""
        dataset = loader.dataset
        if dataset.transform.spec() != self.transform.spec():
            raise ValueError("The transform of the loader differs from the transform of the extractor.")
        paths = [image_path(image) for image in dataset.images]
        keys = [self.cache.key(path) for path in paths]
        hidden = progress is None or not paths
        with tqdm(total=len(paths), desc=progress, unit="image", file=sys.stderr, disable=hidden) as bar:
            for indices, grids in map_on_threads(self._grids, self._parts(loader), self.device):
                for index, grid in zip(indices, grids, strict=True):
                    self.cache.store(keys[index], self._checked(grid, str(paths[index])))
                    self.misses += 1
                    yield keys[index], grid
                bar.update(len(indices))

    def _checked(self, grid: Tensor, image: str) -> Tensor:
        """Return a patch grid after a check that it is finite.

        Raises:
            UserError: If it is not.
        """
        if not grid.isfinite().all():
            raise UserError(
                f"The features of {image} are not finite in {self.cache.dtype}. Set features.dtype=float32, and check "
                "the image and the weights of the backbone."
            )
        return grid

    def _parts(self, loader: ImageLoader) -> Iterator[tuple[list[int], Tensor]]:
        """Yield indices (B,) and images (B, 3, H, W) of a loader, B at most the batch size."""
        for batch in loader:
            indices, images = batch["index"].split(self.batch_size), batch["image"].split(self.batch_size)
            yield from ((part.tolist(), part_images) for part, part_images in zip(indices, images, strict=True))

    def _grids(self, part: tuple[list[int], Tensor]) -> tuple[list[int], list[Tensor]]:
        """Return the indices of images and their patch grids (h, w, D), in the cache's type.

        Args:
            part: Indices (B,) and images (B, 3, H, W), B at most the batch size.
        """
        indices, images = part
        padded = torch.cat((images, images[-1:].expand(self.batch_size - len(images), -1, -1, -1)))
        grids = self.backbone(padded.to(self.device)).cpu()[: len(images)].to(self.cache.dtype)
        return indices, list(grids)
