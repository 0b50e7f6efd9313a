"""Samples as tensors: a map-style dataset, its batches, and a loader that tells a fault plainly."""

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from moleflow.data.read import read_mask, read_picture
from moleflow.data.sample import Sample
from moleflow.data.transforms import PictureTransform
from moleflow.errors import UserError


class Picture(TypedDict):
    """One picture; collated into a batch, every entry gains a leading dimension B.

    Attributes:
        image: (3, H, W) float32, normalised.
        mask: (H, W) bool, true on the defect; all false where nothing is marked.
        label: int64, 1 with a defect.
        index: int64, place of the sample in the dataset's ``samples``.
    """

    image: Tensor
    mask: Tensor
    label: Tensor
    index: Tensor


class PictureDataset(Dataset[Picture]):
    """Decodes and transforms one sample at a time.

    Args:
        samples: What to read.
        transform: Makes tensors of one size.
        masks: Whether to read masks; without, every mask is all false.
    """

    def __init__(self, samples: Sequence[Sample], transform: PictureTransform, masks: bool) -> None:
        self.samples = tuple(samples)
        self.transform = transform
        self.masks = masks

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Picture:
        """Return one sample as tensors.

        Raises:
            UserError: If its picture or mask cannot be read.
        """
        sample = self.samples[index]
        image = self.transform(read_picture(sample.path))
        if self.masks and sample.mask:
            mask = self.transform.mask(read_mask(sample.mask))
        else:
            mask = torch.zeros(image.shape[-2:], dtype=torch.bool)
        return {"image": image, "mask": mask, "label": torch.tensor(sample.label), "index": torch.tensor(index)}


class PictureLoader(DataLoader[Picture]):
    """A DataLoader over pictures that tells a fault in a worker as plainly as one in this process.

    An exception would arrive from a worker as a text with its traceback, so workers hand faults over as values.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator serves every caller
        """Yield batches of `Picture`.

        Raises:
            UserError: If a picture cannot be read.
        """
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def picture_loader(
    samples: Sequence[Sample], transform: PictureTransform, masks: bool, batch_size: int, num_workers: int = 0
) -> PictureLoader:
    """Return a loader over samples, in their order.

    Args:
        samples: What to load; a batch's ``index`` points into it.
        transform: Makes tensors of one size.
        masks: Whether to read masks.
        batch_size: Pictures a batch; the last batch may be smaller.
        num_workers: Processes that read pictures; 0 reads in this one.
    """
    dataset = _FaultsAsValues(samples, transform, masks)
    return PictureLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=_collate)


class _FaultsAsValues(PictureDataset):
    def __getitems__(self, indices: Sequence[int]) -> list[Picture] | UserError:
        try:
            return [self[index] for index in indices]
        except UserError as fault:
            return fault


def _collate(pictures: list[Picture] | UserError) -> Any:
    return pictures if isinstance(pictures, UserError) else default_collate(pictures)
