"""From a picture of any size to a normalised tensor of one size, and its mask by the same movement."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from moleflow.data.read import binary
from moleflow.errors import UserError, choice

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MODES = ("crop", "squash", "pad")


class PictureTransform:
    """Resizes, places and normalises a picture; moves its mask by the same geometry.

    ``crop`` is the method's: resize with Lanczos until the picture just covers the size (for a square: the shorter
    side), then cut out the centre. ``squash`` resizes both sides regardless of aspect. ``pad`` resizes until the
    picture just fits and fills the rest with the mean colour (0 once normalised), where a mask marks nothing.

    Args:
        size: Side of the square, or (height, width), in pixels.
        mode: ``crop``, ``squash`` or ``pad``.
        mean: Mean of red, green and blue in [0, 1], subtracted.
        std: Standard deviation of red, green and blue, divided by.

    Raises:
        UserError: If the mode is unknown, or size, mean or std make no sense.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        mode: str = "crop",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        sides = (size, size) if isinstance(size, (int, float)) else tuple(size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise UserError(f"size={size} is no picture size. Give one positive integer, or [height, width].")
        self.height, self.width = sides
        self.mode = choice("mode", mode, MODES)
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError(f"mean={mean}, std={std}: give three numbers each (red, green, blue), std above 0.")

    def __call__(self, picture: Image.Image) -> Tensor:
        """Return the RGB picture as a float32 tensor (3, H, W), normalised."""
        resized = picture.convert("RGB").resize(self._resized(picture.size), Image.Resampling.LANCZOS)
        channels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div(255)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return self._placed((channels - mean) / std).contiguous()

    def mask(self, mask: Image.Image) -> Tensor:
        """Return the mask as a bool tensor (H, W): true where any non-zero pixel marks a defect."""
        resized = binary(mask).resize(self._resized(mask.size), Image.Resampling.NEAREST)
        return self._placed(torch.from_numpy(np.array(resized))).contiguous() > 0

    def spec(self) -> dict[str, Any]:
        """Return everything that the tensor depends on besides the picture, ready for JSON."""
        return {
            "size": [self.height, self.width],
            "mode": self.mode,
            "filter": "lanczos",
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def seen(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return which rows (h,) and columns (w,), bool, of a picture of ``size`` (w, h) the model sees."""
        rows, columns = (((places >= 0) & (places <= 1)) for places in self._places(size))
        return rows, columns

    def to_picture(self, anomaly_map: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring a map of what the model sees back to the pixels of the picture, bilinearly.

        Args:
            anomaly_map: (H, W) of any resolution.
            size: (width, height) of the picture.

        Returns:
            (height, width), -inf where ``crop`` cut the picture off: nothing was looked at, so nothing was found.
        """
        on_picture = anomaly_map
        for axis, places in enumerate(self._places(size)):
            on_picture = _sampled(on_picture, places, axis)
        rows, columns = self.seen(size)
        on_picture[~rows] = -torch.inf
        on_picture[:, ~columns] = -torch.inf
        return on_picture

    def _places(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Where the pixels' rows (h,) and columns (w,) lie on what the model sees, which reaches from 0 to 1."""
        width, height = self._resized(size)
        return _places(size[1], height, self.height), _places(size[0], width, self.width)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) to which a picture of ``size`` (width, height) is resized before it is placed."""
        width, height = size
        if self.mode == "squash":
            return self.width, self.height
        taller = height * self.width >= width * self.height  # than the target, in proportion
        if taller == (self.mode == "crop"):  # the widths meet; floor as torchvision does
            return self.width, max(1, self.width * height // width)
        return max(1, self.height * width // height), self.height

    def _placed(self, pixels: Tensor) -> Tensor:
        """Centre (..., h, w) on (..., H, W): what sticks out is cut off, what is missing is 0."""
        top = _before(pixels.shape[-2], self.height)
        left = _before(pixels.shape[-1], self.width)
        right, bottom = self.width - pixels.shape[-1] - left, self.height - pixels.shape[-2] - top
        return F.pad(pixels, (left, right, top, bottom))


def _before(have: int, want: int) -> int:
    """Pixels to add before (negative: to cut off), rounded as torchvision's centre crop rounds."""
    return -round((have - want) / 2)


def _places(pixels: int, resized: int, side: int) -> Tensor:
    """Centres (pixels,) float64 of an axis's pixels after it is resized and placed on ``side``, in units of that."""
    return ((torch.arange(pixels, dtype=torch.float64) + 0.5) * resized / pixels + _before(resized, side)) / side


def _sampled(values: Tensor, places: Tensor, axis: int) -> Tensor:
    """Interpolate values (H, W) along one axis at places in [0, 1]; what lies outside takes the border's value."""
    count = values.shape[axis]
    cells = (places * count - 0.5).clamp(0, count - 1)
    low = cells.long()
    weight = (cells - low).to(values.dtype).view((-1, 1) if axis == 0 else (1, -1))
    return torch.lerp(values.index_select(axis, low), values.index_select(axis, (low + 1).clamp(max=count - 1)), weight)
