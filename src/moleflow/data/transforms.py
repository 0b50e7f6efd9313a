"""Transforms from images and masks of any size to tensors of one size, and augmentation by flips and rotations."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from moleflow.data.image_io import binarize_mask
from moleflow.utils.errors import UserError, check_choice

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MODES = ("proportional", "squash", "pad", "crop")


class Transform(Protocol):
    """Interface of deterministic transforms of an image and its mask.

    Attributes:
        input_range: Argument of :func:`~moleflow.data.image_io.read_image` for the images.
    """

    @property
    def input_range(self) -> tuple[float, float] | None:
        """Values of deep images that become black and white; None: by the type of the file."""
        ...

    def __call__(self, image: Image.Image) -> Tensor:
        """Return an RGB image as a float32 tensor (3, H, W)."""
        ...

    def mask(self, mask: Image.Image) -> Tensor:
        """Return a mask as a bool tensor (H, W), moved as the image is."""
        ...

    def spec(self) -> dict[str, Any]:
        """Return all settings that the image tensor depends on, as JSON types."""
        ...


class ImageTransform:
    """Resizing, cropping or padding, and normalization of an image; the same geometry for its mask.

    ``squash`` resizes both sides with Lanczos regardless of the aspect ratio. ``proportional`` does the same, but a
    run then gives each expert the size that `proportional_size` returns for the aspect ratio of its training images.
    ``pad`` resizes until the image just fits and fills the rest with the mean color (0 after normalization), where a
    mask is empty. ``crop`` is the mode of the recorded experiments: resize until the image just covers the size (for a
    square: the shorter side), then crop the center.

    Args:
        size: Side of the square, or (height, width), in pixels.
        mode: ``proportional``, ``squash``, ``pad`` or ``crop``.
        mean: Mean of red, green and blue in [0, 1], subtracted.
        std: Standard deviation of red, green and blue, divided by.
        input_range: Values that become black and white in images with more than 8 bits per channel: ``auto`` for
            those of the file's type, or (low, high) for all such images. Images of 8 bits are not affected. See
            :func:`~moleflow.data.image_io.read_image`.

    Raises:
        UserError: If the size is not positive, the mode is unknown, mean or std are not three values each, or the
            input range is empty.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        mode: str = "crop",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        input_range: str | Sequence[float] = "auto",
    ) -> None:
        sides = (size, size) if isinstance(size, (int, float)) else tuple(size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise UserError(f"size={size} must be one positive integer, or [height, width], in pixels.")
        self.height, self.width = sides
        self.mode = check_choice("mode", mode, MODES)
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError(f"mean={mean}, std={std} must be three values each (red, green, blue), std above 0.")
        self._input_range = None if input_range == "auto" else _checked_range(input_range)

    @property
    def input_range(self) -> tuple[float, float] | None:
        """Values of deep images that become black and white; None: by the type of the file."""
        return self._input_range

    def __call__(self, image: Image.Image) -> Tensor:
        """Return an RGB image as a float32 tensor (3, H, W), normalized."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")  # which copies RGB as well
        resized = rgb.resize(self._resized_size(image.size), Image.Resampling.LANCZOS)
        channels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div(255)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return self._crop_or_pad((channels - mean) / std).contiguous()

    def mask(self, mask: Image.Image) -> Tensor:
        """Return a mask as a bool tensor (H, W): true where any nonzero pixel marks a defect."""
        resized = binarize_mask(mask).resize(self._resized_size(mask.size), Image.Resampling.NEAREST)
        return self._crop_or_pad(torch.from_numpy(np.array(resized))).contiguous() > 0

    def spec(self) -> dict[str, Any]:
        """Return all settings that the image tensor depends on, as JSON types."""
        spec = {
            "size": [self.height, self.width],
            "mode": "squash" if self.mode == "proportional" else self.mode,  # equal tensors
            "filter": "lanczos",
            "mean": list(self.mean),
            "std": list(self.std),
        }
        return spec | ({} if self.input_range is None else {"input_range": list(self.input_range)})

    def visible(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the rows and columns of an image that are not cropped.

        Args:
            size: (width, height) of the image.

        Returns:
            Bool tensors (height,) and (width,).
        """
        rows, columns = (((centers >= 0) & (centers <= 1)) for centers in self._pixel_centers(size))
        return rows, columns

    def cropped_share(self, size: tuple[int, int]) -> float:
        """Return the share in [0, 1] of an image's area that is cropped.

        Args:
            size: (width, height) of the image.
        """
        rows, columns = self.visible(size)
        return 1 - float(rows.float().mean() * columns.float().mean())

    def to_image(self, anomaly_map: Tensor, size: tuple[int, int]) -> Tensor:
        """Map an anomaly map back to the pixels of its image, with bilinear interpolation.

        Args:
            anomaly_map: (H, W) of any resolution, over the transformed image.
            size: (width, height) of the image.

        Returns:
            (height, width); -inf at pixels that ``crop`` removed, which have no score.
        """
        on_image = anomaly_map
        for axis, centers in enumerate(self._pixel_centers(size)):
            on_image = _interpolate(on_image, centers, axis)
        rows, columns = self.visible(size)
        on_image[~rows] = -torch.inf
        on_image[:, ~columns] = -torch.inf
        return on_image

    def _pixel_centers(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the centers of rows (h,) and columns (w,) of an image in units of the transformed image's sides."""
        width, height = self._resized_size(size)
        return _pixel_centers(size[1], height, self.height), _pixel_centers(size[0], width, self.width)

    def _resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) of an image of ``size`` (width, height) after resizing, before cropping or padding."""
        width, height = size
        if self.mode in ("squash", "proportional"):
            return self.width, self.height
        taller = height * self.width >= width * self.height  # than the target, in proportion
        if taller == (self.mode == "crop"):  # the image gets the target's width; rounded down as in torchvision
            return self.width, max(1, self.width * height // width)
        return max(1, self.height * width // height), self.height

    def _crop_or_pad(self, pixels: Tensor) -> Tensor:
        """Center pixels (..., h, w) on (..., H, W): crop larger sides, pad smaller ones with 0."""
        top = _offset(pixels.shape[-2], self.height)
        left = _offset(pixels.shape[-1], self.width)
        right, bottom = self.width - pixels.shape[-1] - left, self.height - pixels.shape[-2] - top
        return F.pad(pixels, (left, right, top, bottom))


def proportional_size(side: int, aspect_ratio: float, step: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of about ``side`` x ``side`` pixels that has an aspect ratio.

    Both are multiples of ``step``, and at least two steps, unless they are equal after rounding: then the size is the
    square itself.

    Args:
        side: Side of the square in pixels.
        aspect_ratio: Width divided by height.
        step: Height and width in pixels of which the sides are multiples: the stride of the patch grid.
    """
    root = math.sqrt(aspect_ratio)
    height, width = (
        max(2, round(length / stride)) * stride for length, stride in zip((side / root, side * root), step, strict=True)
    )
    return (side, side) if height == width else (height, width)


def _checked_range(input_range: str | Sequence[float]) -> tuple[float, float]:
    values = [] if isinstance(input_range, str) else [float(value) for value in input_range]
    if len(values) != 2 or not -math.inf < values[0] < values[1] < math.inf:
        raise UserError(f"input_range={input_range} must be auto, or [low, high] with low below high.")
    return values[0], values[1]


def _offset(length: int, target: int) -> int:
    """Return the pixels to pad (negative: to crop) at the start of an axis, rounded as in torchvision's CenterCrop."""
    return -round((length - target) / 2)


def _pixel_centers(pixels: int, resized: int, side: int) -> Tensor:
    """Return the centers (pixels,) float64 of an axis after resizing and cropping or padding, in units of ``side``."""
    return ((torch.arange(pixels, dtype=torch.float64) + 0.5) * resized / pixels + _offset(resized, side)) / side


def _interpolate(values: Tensor, centers: Tensor, axis: int) -> Tensor:
    """Interpolate values (H, W) linearly along an axis at centers in [0, 1]; outside, the border value is repeated."""
    count = values.shape[axis]
    cells = (centers * count - 0.5).clamp(0, count - 1)
    low = cells.long()
    weight = (cells - low).to(values.dtype).view((-1, 1) if axis == 0 else (1, -1))
    return torch.lerp(values.index_select(axis, low), values.index_select(axis, (low + 1).clamp(max=count - 1)), weight)


_FLIPS = ("flip_left_right", "flip_top_bottom", "rotate_180")
_ROTATIONS = ("rotate_90", "rotate_180", "rotate_270")
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "flips": _FLIPS,
    "rotations": _ROTATIONS,
    "all": tuple(transpose.name.lower() for transpose in Image.Transpose),
}
"""Names of :class:`PIL.Image.Transpose` by augmentation; their results are added to the unaugmented training images.

For products in any orientation. An orientation that never occurs in good products becomes normal too, so that a product
that lies upside down is no longer a defect. With the identity, the transposes of each choice form a group, so that no
orientation is preferred.
"""


class FlippedTransform:
    """A transform of flipped or rotated images.

    Args:
        transform: Applied to the flipped image or mask.
        flip: Name of a :class:`PIL.Image.Transpose` in lower case, see `AUGMENTATIONS`.
    """

    def __init__(self, transform: ImageTransform, flip: str) -> None:
        self.transform = transform
        self.flip = flip

    @property
    def input_range(self) -> tuple[float, float] | None:
        """Values of deep images that become black and white; None: by the type of the file."""
        return self.transform.input_range

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the flipped RGB image as a float32 tensor (3, H, W), normalized."""
        return self.transform(self._transpose(image))

    def mask(self, mask: Image.Image) -> Tensor:
        """Return the flipped mask as a bool tensor (H, W)."""
        return self.transform.mask(self._transpose(mask))

    def spec(self) -> dict[str, Any]:
        """Return all settings that the image tensor depends on, as JSON types."""
        return {**self.transform.spec(), "flip": self.flip}

    def _transpose(self, image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose[self.flip.upper()])
