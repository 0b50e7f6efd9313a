"""Shares of images and of the defect pixels in their masks that remain after cropping and resizing."""

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import NamedTuple

import numpy as np
from PIL import Image

from moleflow.data.transforms import ImageTransform


class MaskCoverage(NamedTuple):
    """Defect pixels of one mask.

    Attributes:
        pixels: Number in the mask file.
        visible: Number of these that the transform does not crop.
        transformed: Number in the transformed mask.
        total: Number of all pixels in the mask file.
        gray: Whether the mask file has many gray levels, so that half of the maximum is its threshold.
    """

    pixels: int
    visible: int
    transformed: int
    total: int = 0
    gray: bool = False


class CoverageLoss(NamedTuple):
    """Loss of defect pixels over several masks.

    Attributes:
        masks: Number of masks with a defect.
        emptied: Number of these without a defect pixel after the transform: the image counts as defective, but the
            model gets no pixel of the defect.
        pixels: Share in [0, 1] of all defect pixels that are cropped.
    """

    masks: int
    emptied: int
    pixels: float

    def message(self, category: str, transform: ImageTransform) -> str:
        """Return a warning about masks that the transform empties.

        Args:
            category: The category of the masks.
            transform: The transform.
        """
        return (
            f"{category}: after the transform to {transform.height} x {transform.width} pixels, {self.emptied} of "
            f"{self.masks} masks have no defect pixel. These images are still labeled defective. Consider a "
            "larger transform.size."
        )


class CropLoss(NamedTuple):
    """Parts of images and masks that ``transform.mode=crop`` removes.

    Attributes:
        area: Share in [0, 1] of the area of an image, mean over the images.
        pixels: Share in [0, 1] of all defect pixels.
        emptied: Number of masks whose defect pixels are all removed.
        masks: Number of masks with a defect.
        category: The category that loses the largest share of its area.
        largest: This share.
    """

    area: float
    pixels: float
    emptied: int
    masks: int
    category: str
    largest: float

    def __str__(self) -> str:
        """Return the loss as the rest of a sentence about the crop."""
        masks = f" and {self.pixels:.1%} of the defect pixels" if self.masks else ""
        if self.emptied:
            masks += f", all of them in {self.emptied} of {self.masks} masks"
        return f"{self.area:.1%} of the area of the images ({self.category}: {self.largest:.1%}){masks}"


def mask_coverage(mask: Image.Image, transform: ImageTransform) -> MaskCoverage:
    """Count the defect pixels of a mask before and after a transform.

    Args:
        mask: Mask of a whole image, as :func:`~moleflow.data.image_io.read_mask` returns it.
        transform: The transform of the image.
    """
    marked = np.asarray(mask) > 0
    rows, columns = (axis.numpy() for axis in transform.visible(mask.size))
    transformed = int(transform.mask(mask).sum())
    visible = int(marked[rows][:, columns].sum())
    return MaskCoverage(int(marked.sum()), visible, transformed, marked.size, "gray_levels" in mask.info)


def coverage_loss(masks: Iterable[MaskCoverage]) -> CoverageLoss:
    """Sum the loss of defect pixels over several masks; empty masks do not count."""
    nonempty = [mask for mask in masks if mask.pixels]
    pixels = sum(mask.pixels for mask in nonempty)
    share = 1 - sum(mask.visible for mask in nonempty) / pixels if pixels else 0.0
    return CoverageLoss(len(nonempty), sum(not mask.transformed for mask in nonempty), share)


def crop_loss(
    sizes: Mapping[str, Iterable[tuple[int, int]]], masks: Iterable[MaskCoverage], transform: ImageTransform
) -> CropLoss:
    """Return the parts of images and masks that a transform crops.

    Args:
        sizes: (width, height) of the images by category; at least one image.
        masks: Coverage of all masks by the transform.
        transform: The transform.
    """
    shares: dict[str, list[float]] = {}
    for category, images in sizes.items():
        counts = Counter(images)
        shares[category] = [share for size, n in counts.items() for share in [transform.cropped_share(size)] * n]
    means = {category: fmean(values) for category, values in shares.items() if values}
    category = max(means, key=means.__getitem__)
    nonempty = [mask for mask in masks if mask.pixels]
    return CropLoss(
        area=fmean(share for values in shares.values() for share in values),
        pixels=coverage_loss(nonempty).pixels,
        emptied=sum(not mask.visible for mask in nonempty),
        masks=len(nonempty),
        category=category,
        largest=means[category],
    )
