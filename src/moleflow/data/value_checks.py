"""Checks of pixel values: images that do not fit their range of values, and masks that mark other than the defect."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moleflow.data.image_io import auto_range, read_deep_values
from moleflow.data.mask_coverage import MaskCoverage
from moleflow.data.samples import Sample
from moleflow.utils.errors import UserError

SMALL_PART = 0.25
"""Share of the range of values up to which the brightest image of a category uses a small part of it: 2 bits less."""


@dataclass(frozen=True)
class _ValueRange:
    """Smallest and largest finite value of one image with more than 8 bits per channel."""

    path: Path
    low: float
    high: float
    is_float: bool

    @property
    def auto_range(self) -> tuple[float, float]:
        """The range that :func:`~moleflow.data.image_io.read_image` uses by default."""
        return auto_range(self.is_float, self.high)


def value_warnings(
    samples: Sequence[Sample],
    coverage: Callable[[Sample], MaskCoverage | None],
    input_range: tuple[float, float] | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield (category, message) for each cause, with the number of files and an example.

    Images with more than 8 bits per channel are decoded; of all others only the header is read.

    Args:
        samples: The samples of all categories. Files that cannot be read are skipped.
        coverage: Returns the defect pixels of a sample's mask; None if the mask cannot be read.
        input_range: ``input_range`` of the transform; None: by the type of the file.
    """
    categories = dict.fromkeys(sample.category for sample in samples)
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        ranges = list(pool.map(_measure, (sample.path for sample in samples)))
    for category in categories:
        own = [image for sample, image in zip(samples, ranges, strict=True) if image and sample.category == category]
        for message in _range_warnings(own, input_range):
            yield category, f"{category}: {message}"
        masks = [
            (sample, mask)
            for sample in samples
            if sample.category == category and sample.mask is not None and (mask := coverage(sample)) is not None
        ]
        for message in _mask_warnings(masks):
            yield category, f"{category}: {message}"


def _measure(path: Path) -> _ValueRange | None:
    """Return the range of an image's values; None if it has 8 bits per channel, cannot be read or has no number."""
    try:
        values = read_deep_values(path)
    except UserError:  # another check reports the file
        return None
    if values is None:
        return None
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return None
    return _ValueRange(path, float(finite.min()), float(finite.max()), finite.dtype.kind == "f")


def _range_warnings(images: Sequence[_ValueRange], input_range: tuple[float, float] | None) -> Iterator[str]:
    """Yield the warnings about the values of one category's images with more than 8 bits per channel."""
    if not images:
        return
    brightest = max(images, key=lambda image: image.high)
    low, high = min(image.low for image in images), brightest.high
    clipped = [image for image in images if not _contains(input_range or image.auto_range, image)]
    used = input_range or brightest.auto_range
    if clipped:
        example = max(clipped, key=lambda image: max(image.high, -image.low))
        bounds = input_range or example.auto_range
        yield (
            f"{len(clipped)} of {len(images)} images with more than 8 bits have values outside {_show(bounds)}, which "
            f"are clipped, such as {example.path} with values from {example.low:g} to {example.high:g}. Set "
            f"transform.input_range={_show((_round_down(low), _round_up(high)))}."
        )
    elif 0 < high <= used[0] + SMALL_PART * (used[1] - used[0]):
        yield (
            f"{len(images)} images with more than 8 bits use a small part of {_show(used)} and become dark, with few "
            f"gray levels: their largest value is {high:g}, in {brightest.path}. Set "
            f"transform.input_range={_show((_round_down(low), _round_up(high)))}."
        )
    scaled = [image for image in images if image.is_float and image.high <= 1]
    if input_range is None and scaled and len(scaled) < sum(image.is_float for image in images):
        yield (
            f"{len(scaled)} of {len(images)} images have floats of at most 1, such as {scaled[0].path}, and become "
            f"brighter than the others, whose largest value is {high:g}. Set "
            f"transform.input_range={_show((_round_down(low), _round_up(high)))}."
        )


def _mask_warnings(masks: Sequence[tuple[Sample, MaskCoverage]]) -> Iterator[str]:
    """Yield the warnings about the values of one category's masks."""
    if gray := [sample for sample, mask in masks if mask.gray]:
        yield (
            f"{len(gray)} of {len(masks)} masks have many gray levels, as after JPEG compression or resizing, such as "
            f"{gray[0].mask}. Values above half of the maximum mark the defect. Save masks as PNG with two values."
        )
    if large := [sample for sample, mask in masks if 2 * mask.pixels > mask.total]:
        yield (
            f"{len(large)} of {len(masks)} masks mark more than half of their image, such as {large[0].mask}. If they "
            "are inverted, exchange black and white: nonzero pixels mark the defect."
        )


def _contains(bounds: tuple[float, float], image: _ValueRange) -> bool:
    return bounds[0] <= image.low and image.high <= bounds[1]


def _round_up(value: float) -> float:
    """Return an upper bound of values: the maximum of a number of bits; below 1 with two digits."""
    if value > 1:
        return 2.0 ** math.ceil(math.log2(math.ceil(value) + 1)) - 1
    if value <= 0 or value > SMALL_PART:
        return float(value > 0)
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / step) * step


def _round_down(value: float) -> float:
    """Return a lower bound of values: 0 without negative values."""
    return min(0.0, float(math.floor(value)))


def _show(bounds: tuple[float, float]) -> str:
    """Return bounds in the form in which they are set."""
    return f"[{bounds[0]:.15g},{bounds[1]:.15g}]"
