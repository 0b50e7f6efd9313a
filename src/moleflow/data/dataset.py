"""Samples as tensors: a map-style dataset, its batches, and a loader that tells a fault plainly."""

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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
    """A DataLoader that passes on a worker's `UserError` without the worker's traceback."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator serves every caller
        """Yield batches of `Picture`.

        Raises:
            UserError: If a picture cannot be read.
        """
        try:
            yield from super().__iter__()
        except UserError as error:
            # torch puts "Caught UserError in DataLoader worker process ... Traceback ..." before the message.
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
