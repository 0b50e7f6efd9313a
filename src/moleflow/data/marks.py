"""What becomes of the marked defects when a picture is cut and shrunk to what the model sees."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from moleflow.data.transforms import PictureTransform


class Marks(NamedTuple):
    """One mask.

    Attributes:
        pixels: Marked pixels in the file.
        seen: Those of them that the transform does not cut off.
        left: Marked pixels of the transformed mask.
    """

    pixels: int
    seen: int
    left: int


class Lost(NamedTuple):
    """Several masks.

    Attributes:
        masks: How many mark a defect.
        emptied: How many of these mark nothing once transformed: defects that count, and that nobody sees.
        pixels: Share in [0, 1] of all marked pixels that is cut off.
    """

    masks: int
    emptied: int
    pixels: float

    def sentence(self, category: str, transform: PictureTransform) -> str:
        """Return what to say of a category that loses something."""
        return (
            f"{category}: of {self.masks} marked defects {self.emptied} have no marked pixel in what the model sees "
            f"(transform.mode={transform.mode}, {transform.height} x {transform.width}), and {self.pixels:.1%} of all "
            "marked pixels are cut off. They count as defects all the same."
        )


def marks(mask: Image.Image, transform: PictureTransform) -> Marks:
    """Return what a transform leaves of a mask."""
    marked = np.asarray(mask) > 0
    rows, columns = (seen.numpy() for seen in transform.seen(mask.size))
    left = int(transform.mask(mask).sum())
    return Marks(int(marked.sum()), int(marked[rows][:, columns].sum()), left)


def lost(masks: Iterable[Marks]) -> Lost:
    """Return what is lost of several masks."""
    marked = [one for one in masks if one.pixels]
    pixels = sum(one.pixels for one in marked)
    share = 1 - sum(one.seen for one in marked) / pixels if pixels else 0.0
    return Lost(len(marked), sum(not one.left for one in marked), share)
