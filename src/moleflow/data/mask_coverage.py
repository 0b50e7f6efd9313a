"""Share of the defect pixels in a mask that remains after cropping and resizing."""

from collections.abc import Iterable
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
        """Return a warning about the loss.

        Args:
            category: The category of the masks.
            transform: The transform by which pixels are lost.
        """
        losses = []
        if self.pixels:
            losses.append(f"{self.pixels:.1%} of all defect pixels are cropped")
        if self.emptied:
            losses.append(
                f"{self.emptied} of {self.masks} masks have no defect pixel, but their images are labeled defective"
            )
        remedy = "view=full" if transform.mode == "crop" else "a larger transform.size"
        return (
            f"{category}: after cropping and resizing (transform.mode={transform.mode}, {transform.height} x "
            f"{transform.width}), {', and '.join(losses)}. Consider {remedy}."
        )


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
