"""Anomaly maps on images: overlays, and regions above the pixel threshold."""

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from moleflow.data.transforms import ImageTransform

_NORMAL_LEVEL = 0.05  # normalized map value up to which the overlay is transparent
_DARKEST, _OPACITY = 0.3, 0.75  # start of the color map, whose first colors are nearly black, and largest opacity
_OUTLINE = np.array([0, 230, 255])  # cyan, which the colors of the map do not contain
_OUTLINE_SHARE = 400  # shorter side of an image per pixel of the outline's width


@dataclass(frozen=True)
class Region:
    """A connected region of an anomaly map above the pixel threshold.

    Attributes:
        box: Left, top, right and bottom in pixels of the image; right and bottom are the first pixels outside.
        area: Number of pixels.
        peak: Largest normalized value of the map in the region, above 0.5.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float


def transformed_image(image: Image.Image, transform: ImageTransform) -> NDArray[np.uint8]:
    """Return an image after the transform, without its normalization: (H, W, 3) uint8."""
    mean, std = (np.asarray(values).reshape(3, 1, 1) for values in (transform.mean, transform.std))
    pixels = (transform(image).numpy() * std + mean).transpose(1, 2, 0)
    rounded: NDArray[np.uint8] = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return rounded


def overlay(image: Image.Image, normalized_map: NDArray[np.float32]) -> Image.Image:
    """Return an image, blended with the colors of its anomaly map, and the regions above the threshold outlined.

    A color stands for the same normalized value in all images: the overlay is transparent up to 0.05, the median of
    the largest values of normal images, and the outline is at the pixel threshold, 0.5. The opacity grows with the
    square root above 0.05, so that a defect whose pixels are all below their threshold is visible, too.

    Args:
        image: The RGB image (width W, height H).
        normalized_map: (H, W) map with values from 0 to 1; NaN or -inf where the map does not cover the image.
    """
    values = np.nan_to_num(normalized_map, nan=0.0, neginf=0.0).clip(0, 1)
    colors = mpl.colormaps["inferno"](_DARKEST + (1 - _DARKEST) * values, bytes=True)[..., :3]
    weight = _OPACITY * np.sqrt(((values - _NORMAL_LEVEL) / (1 - _NORMAL_LEVEL)).clip(0, 1))[..., None]
    blended = (np.asarray(image.convert("RGB")) * (1 - weight) + colors * weight).round().astype(np.uint8)
    marked = values > 0.5
    if marked.any():
        width = max(1, min(image.size) // _OUTLINE_SHARE)
        inner = ndimage.binary_erosion(marked, iterations=width, border_value=1)
        blended[marked & ~inner] = _OUTLINE
    return Image.fromarray(blended)


def regions(normalized_map: NDArray[np.float32]) -> list[Region]:
    """Return the 8-connected regions of a map above 0.5, the largest first.

    Args:
        normalized_map: (H, W) map with values from 0 to 1.
    """
    labels, count = ndimage.label(normalized_map > 0.5, structure=np.ones((3, 3), dtype=bool))
    if not count:
        return []
    index = np.arange(1, count + 1)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    peaks = ndimage.maximum(normalized_map, labels, index)
    found = [
        Region((columns.start, rows.start, columns.stop, rows.stop), int(area), float(peak))
        for (rows, columns), area, peak in zip(ndimage.find_objects(labels), areas, peaks, strict=True)
    ]
    return sorted(found, key=lambda region: -region.area)


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Return the run lengths of a mask in COCO's uncompressed form.

    Columns are concatenated; the lengths alternate between unmarked and marked pixels, beginning with unmarked ones.

    Args:
        mask: (H, W) mask.
    """
    flat = mask.ravel(order="F")
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate(([0], borders, [flat.size]))).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def map_on_image(anomaly_map: Tensor, transform: ImageTransform, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return an anomaly map at the size of its image, (height, width) float32; -inf on cropped pixels.

    Args:
        anomaly_map: (H, W) map over the transformed image.
        transform: The transform of the expert that scored the image.
        size: (width, height) of the image.
    """
    pixels: NDArray[np.float32] = transform.to_image(anomaly_map, size).numpy()
    return pixels
