"""Saturation thresholds of defect regions, and the regions of a mask.

Reference: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and
Localization", IJCV 2022, section 4.3: a defect counts as localized once as many of its pixels as its saturation
threshold are detected, because a missing object, for instance, can be marked at any of several places.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from moleflow.data.image_io import ImageError, mask_files, read_mask_values


@dataclass(frozen=True)
class SaturationThreshold:
    """Number of pixels of a defect region that have to be detected.

    Attributes:
        value: Pixels, or a share of the region.
        relative: Whether the value is a share.
    """

    value: float
    relative: bool

    def area(self, pixels: int) -> int:
        """Return the number of pixels, at least 1, of a region of some size.

        Args:
            pixels: Size of the region.
        """
        return max(1, int(self.value * pixels) if self.relative else min(int(self.value), pixels))


class MaskRegion(NamedTuple):
    """One defect region of an image.

    Attributes:
        mask: Mask of the image's size, 255 on the region and 0 elsewhere.
        share: Saturation threshold as a share of the region's pixels, in (0, 1].
    """

    mask: Image.Image
    share: float


def read_regions(path: Path, thresholds: Mapping[int, SaturationThreshold]) -> list[MaskRegion]:
    """Return the regions of a mask: one per file.

    Args:
        path: A mask file, or a folder of mask files.
        thresholds: Saturation thresholds by the nonzero value of a file's pixels, which stands for the defect.

    Raises:
        ImageError: If a file cannot be read, has several nonzero values, or one without a threshold.
    """
    regions = []
    for file in mask_files(path):
        values = read_mask_values(file)
        values = values.max(axis=-1) if values.ndim == 3 else values
        codes = np.unique(values[values > 0]).tolist()
        if not codes:
            continue
        if len(codes) > 1 or codes[0] not in thresholds:
            raise ImageError(
                file,
                f"has the pixel values {', '.join(map(str, codes))}; a mask has one nonzero value, which is one of "
                f"those in defects_config.json ({', '.join(map(str, sorted(thresholds)))})",
            )
        marked = values > 0
        pixels = int(marked.sum())
        share = thresholds[codes[0]].area(pixels) / pixels
        regions.append(MaskRegion(Image.fromarray(marked.astype(np.uint8) * 255), share))
    return regions
