"""The image data set and its loader: decoded, transformed and batched images of samples or paths."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from moleflow.data.image_io import read_image, read_mask
from moleflow.data.samples import Sample, image_path
from moleflow.data.transforms import Transform
from moleflow.utils import random
from moleflow.utils.errors import UserError


class ImageItem(TypedDict):
    """One image as tensors; in a batch, each entry has a leading dimension B.

    Attributes:
        image: (3, H, W) float32, normalized.
        mask: (H, W) bool, true on the defect; all false without a mask.
        label: int64: 0 for a normal image, 1 for an image with a defect, -1 if unknown.
        index: int64, position of the image in the data set.
    """

    image: Tensor
    mask: Tensor
    label: Tensor
    index: Tensor


class ImageDataset(Dataset[ImageItem]):
    """Map-style data set that decodes and transforms one image at a time.

    Args:
        images: Samples, or paths of images whose label is unknown.
        transform: Applied to image and mask.
        masks: Whether to read the masks of samples; otherwise all masks are false.
    """

    def __init__(self, images: Sequence[Sample] | Sequence[Path], transform: Transform, masks: bool = False) -> None:
        self.images: tuple[Sample | Path, ...] = tuple(images)
        self.transform = transform
        self.masks = masks

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageItem:
        """Return one image as tensors.

        Raises:
            ImageError: If the image or its mask cannot be read.
        """
        source = self.images[index]
        image = self.transform(read_image(image_path(source), self.transform.input_range))
        label, mask_path = (source.label, source.mask) if isinstance(source, Sample) else (-1, None)
        if self.masks and mask_path is not None:
            mask = self.transform.mask(read_mask(mask_path))
        else:
            mask = torch.zeros(image.shape[-2:], dtype=torch.bool)
        return {"image": image, "mask": mask, "label": torch.tensor(label), "index": torch.tensor(index)}


class ImageLoader(DataLoader[ImageItem]):
    """A `DataLoader` over an `ImageDataset` that raises user errors of its workers unchanged."""

    dataset: ImageDataset

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator instead of torch's iterator class
        """Yield batches of `ImageItem`.

        Raises:
            UserError: If an image or mask cannot be read.
        """
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def image_loader(
    images: Sequence[Sample] | Sequence[Path],
    transform: Transform,
    masks: bool = False,
    batch_size: int = 32,
    num_workers: int = 0,
    generator: torch.Generator | None = None,
    shuffle: bool = False,
) -> ImageLoader:
    """Return a loader over images.

    Args:
        images: Samples or paths; may be empty. The ``index`` of a batch refers to these.
        transform: Applied to image and mask.
        masks: Whether to read the masks of samples.
        batch_size: Images per batch; the last batch may be smaller.
        num_workers: Processes that decode images; 0 decodes in this process.
        generator: Source of the loader's random numbers. By default the global generator for a shuffled loader, else a
            new one, so that the loader does not change the global random state.
        shuffle: Whether each pass has a new random order, instead of the order of ``images``.
    """
    shuffle = shuffle and len(images) > 0  # torch's random sampler rejects an empty data set
    if generator is None and not shuffle:
        generator = random.generator(0, "feature loader")  # torch draws a seed for workers that need none
    return ImageLoader(
        _WorkerDataset(images, transform, masks),
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=min(num_workers, len(images)),
        collate_fn=_collate,
        generator=generator,
    )


class _WorkerDataset(ImageDataset):
    """An `ImageDataset` that returns user errors as values.

    The workers of a `DataLoader` re-raise exceptions with another message, and some with another type.
    """

    def __getitems__(self, indices: Sequence[int]) -> list[ImageItem] | UserError:
        try:
            return [self[index] for index in indices]
        except UserError as error:
            return error


def _collate(items: list[ImageItem] | UserError) -> Any:
    return items if isinstance(items, UserError) else default_collate(items)
