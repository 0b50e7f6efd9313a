"""Decoding of image and mask files."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageFile, ImageOps

from moleflow.utils.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, and commands that only read files do without
    from torch import Tensor

ImageSource = Union[str, Path, Image.Image, NDArray[Any], "Tensor"]
"""An image to score: a file, or an image in memory; see :func:`rgb_image`."""

SUFFIXES = frozenset((
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".j2k", ".jpx", ".ppm",
    ".pgm", ".pbm", ".pnm"
))  # fmt: skip
"""Suffixes of image files in lower case; files match in any case. Formats of animations, such as GIF, are left out."""

MAX_PIXELS = 1_000_000_000
"""Pixels above which an image is not decoded: its header is damaged or was made to fill the memory.

Images of line scan cameras have some hundred million pixels.
"""
# Pillow's own bound of 179 million pixels is below that; it has one for the whole process, and raises above its double.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

MAX_MASK_CODES = 8
"""Distinct nonzero values up to which every nonzero value of a mask marks a defect, as in masks with label codes."""
_MIN_GRAY_PEAK = 64  # smallest maximum of a blurred integer mask: below, more values are numbers of instances

_CHANNELS = (1, 3, 4)
_DEEP_COLORS = re.compile(r"(RGB|RGBX|RGBA|RGBa|LA|CMYK);16[BLN]")
"""Pillow's layouts of the bytes of colors with 16 bits per channel."""
_STRIP_PIXELS = 1 << 20  # converted at a time: the float64 values of a whole line scan would fill gigabytes

_SWAPPED_AXES = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


class ImageError(UserError):
    """A missing or damaged image file; the message advises what to do in a data set.

    Args:
        path: The file.
        fault: The fault, without subject and full stop, such as ``"does not exist"``.
    """

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(path, fault)
        self.path = path
        self.fault = fault

    def __str__(self) -> str:
        """Return path, fault and advice."""
        return f"{self.path} {self.fault}. Replace the file or remove it from the data set."


def images_in(folder: Path) -> list[Path]:
    """Return the image files directly in a folder, sorted by name; hidden files are left out.

    The list is empty if the folder does not exist.
    """
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in files if path.is_file())


def read_image(path: Path, input_range: tuple[float, float] | None = None) -> Image.Image:
    """Decode an image completely and return it as 8-bit RGB in upright orientation.

    Gray values are repeated, palettes are looked up, transparency is dropped, CMYK is converted. The scale of images
    with more than 8 bits per channel is the same for all images with equal arguments, so that equal values stay equal.

    Args:
        path: The file.
        input_range: Values of images with more than 8 bits per channel that become 0 and 255; values outside are
            clipped. By default 0 and 65535 for integers; for floats 0 and 1 if no value is larger than 1, else 0 and
            255. Images of 8 bits are not scaled.

    Raises:
        ImageError: If the file is missing, truncated or damaged, its mode has no RGB form, or it has more than
            `MAX_PIXELS` pixels.
    """
    if input_range is not None and (values := read_deep_values(path)) is not None:
        return _scaled(values, input_range)
    return _to_rgb(_decode(path))


def auto_range(is_float: bool, largest: float) -> tuple[float, float]:
    """Return the values that `read_image` scales to 0 and 255 by default in an image with more than 8 bits per channel.

    Args:
        is_float: Whether the values are floats.
        largest: Largest value of the image.
    """
    return (0.0, 65535.0) if not is_float else (0.0, 1.0) if largest <= 1 else (0.0, 255.0)


def read_deep_values(path: Path) -> NDArray[Any] | None:
    """Return the stored values of an image with more than 8 bits per channel; None for any other image.

    Of images with at most 8 bits per channel, only the header is read.

    Returns:
        (H, W) or (H, W, 3) in upright orientation; integers or floats. Opacity is dropped, CMYK is converted to RGB.

    Raises:
        ImageError: If the file is missing, truncated or damaged, or has more than `MAX_PIXELS` pixels.
    """
    with _open(path) as file:
        if file.mode.startswith("I") or file.mode == "F":
            return np.asarray(ImageOps.exif_transpose(file))
        layouts = {_raw_mode(tile) for tile in file.tile}
    layout = layouts.pop() if len(layouts) == 1 else ""
    return _read_deep_colors(path, layout) if _DEEP_COLORS.fullmatch(layout) else None


def rgb_image(image: ImageSource, input_range: tuple[float, float] | None = None) -> Image.Image:
    """Return an image as 8-bit RGB, from a file or from memory.

    An array, tensor or Pillow image with the values of a file has the same result as the file.

    Args:
        image: A file; a Pillow image; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a tensor of these shapes
            or (C, H, W). Integers of 8 bits are 0 to 255, wider integers and floats are scaled as in `read_image`. An
            opacity channel is dropped.
        input_range: See `read_image`.

    Raises:
        ImageError: If a file cannot be read.
        UserError: If an image in memory has another shape or type, no pixel, or values that are not finite.
    """
    if isinstance(image, (str, Path)):
        return read_image(Path(image), input_range)
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        if input_range is None or not (upright.mode.startswith("I") or upright.mode == "F"):
            return _to_rgb(upright)
        return _scaled(np.asarray(upright), input_range)
    values = _channels_last(image)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    if values.dtype == np.uint8:
        return Image.fromarray(values).convert("RGB")
    return _scaled(values, input_range or auto_range(values.dtype.kind == "f", float(values.max())))


def _channels_last(image: Any) -> NDArray[Any]:
    """Return an array or tensor as (H, W) or (H, W, 3), integers, booleans or float64.

    Raises:
        UserError: If it is none, or its shape, type or values are not those of an image.
    """
    tensor = hasattr(image, "detach")  # of torch
    if not tensor and not isinstance(image, np.ndarray):
        raise UserError(
            f"An image of type={type(image).__name__} cannot be scored. Give a path, a Pillow image, an array or a "
            "tensor."
        )
    values: NDArray[Any] = image.detach().cpu().numpy() if tensor else image
    if tensor and values.ndim == 3 and values.shape[0] in _CHANNELS:
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3 and values.shape[-1] in _CHANNELS:
        values = values[..., 0] if values.shape[-1] == 1 else values[..., :3]
    elif values.ndim != 2:
        raise UserError(
            f"An image of shape={list(values.shape)} cannot be scored. Arrays are (H, W) or (H, W, C) and tensors also "
            "(C, H, W), with 1, 3 or 4 channels."
        )
    if values.size == 0 or values.dtype.kind not in "biuf":
        raise UserError(f"An image of shape={list(values.shape)} and type={values.dtype} has no pixel values.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError("An image has values that are not finite. Replace them, or leave the image out.")
    return np.ascontiguousarray(values.astype(np.float64) if values.dtype.kind == "f" else values)


def read_mask(path: Path) -> Image.Image:
    """Decode a mask and return it as 8-bit gray: 255 on the defect, 0 elsewhere; see `binarize_mask`.

    Args:
        path: The mask file; or a folder of mask files of one image, whose union is returned, as in MVTec LOCO.

    Raises:
        ImageError: If a file is missing, truncated or damaged, has more than `MAX_PIXELS` pixels, or the files of a
            folder differ in size.
    """
    if not path.is_dir():
        return binarize_mask(_decode(path))
    parts = [binarize_mask(_decode(file)) for file in images_in(path)]
    if len({part.size for part in parts}) != 1:
        raise ImageError(path, "has masks of different sizes" if parts else "has no mask")
    union = reduce(ImageChops.lighter, parts)
    if levels := [part.info["gray_levels"] for part in parts if "gray_levels" in part.info]:
        union.info["gray_levels"] = max(levels)
    return union


def read_mask_values(path: Path) -> NDArray[Any]:
    """Return the stored values of a mask file, (H, W) or (H, W, C), in upright orientation.

    Raises:
        ImageError: If the file is missing, truncated or damaged, or has more than `MAX_PIXELS` pixels.
    """
    return np.asarray(_decode(path))


def mask_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of a mask file, or of the masks of a folder; reads the headers only.

    Raises:
        ImageError: If a header cannot be read, or the files of a folder differ in size.
    """
    sizes = {image_size(file) for file in mask_files(path)}
    if len(sizes) != 1:
        raise ImageError(path, "has masks of different sizes" if sizes else "has no mask")
    return sizes.pop()


def mask_files(path: Path) -> list[Path]:
    """Return the files of a mask: the path itself, or the image files of a folder."""
    return images_in(path) if path.is_dir() else [path]


def binarize_mask(mask: Image.Image) -> Image.Image:
    """Return a mask as 8-bit gray: 255 on the defect, 0 elsewhere.

    In a mask with up to `MAX_MASK_CODES` distinct nonzero values, all nonzero values mark the defect, so that label
    codes such as 1, 2, 3 and 16-bit values do. More values are the result of JPEG compression or interpolation: values
    above half of the maximum mark the defect, and ``info["gray_levels"]`` of the result is the number of values. If
    their maximum is an integer below 64, they are numbers of instances and all of them mark it.

    The value of a pixel with several channels is the largest of them, times the opacity. In a palette image, the color
    in the palette decides, because image optimizers place black at any index; if the whole palette is black, the index
    decides.
    """
    if "P" in mask.mode and not any(mask.getpalette() or []):
        values = np.asarray(mask.getchannel(0)) != 0
    elif "P" in mask.mode or mask.mode in ("LA", "La", "RGBA", "RGBa"):
        rgba = np.asarray(mask.convert("RGBA"))
        values = rgba[..., :3].max(axis=-1).astype(np.uint16) * rgba[..., 3]
    else:
        array = np.asarray(mask)
        values = array if array.ndim == 2 else array.max(axis=-1)
    levels = _gray_levels(values)
    marked = values > values.max() / 2 if levels else values != 0
    result = Image.fromarray(marked.astype(np.uint8) * 255)
    if levels:
        result.info["gray_levels"] = levels
    return result


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of an image in upright orientation; reads the header only.

    Raises:
        ImageError: If the header cannot be read.
    """
    with _open(path) as file:
        width, height = file.size
        swapped = file.getexif().get(ExifTags.Base.Orientation) in _SWAPPED_AXES
    return (height, width) if swapped else (width, height)


def _gray_levels(values: NDArray[Any]) -> int:
    """Return the number of distinct nonzero values of a blurred mask (H, W); 0 for a mask of codes."""
    peak = values.max(initial=0)
    if values.dtype == np.bool_ or (values.dtype.kind in "iu" and peak < _MIN_GRAY_PEAK):
        return 0
    if ((values == 0) | (values == peak)).all():
        return 0
    if values.dtype in (np.uint8, np.uint16):  # a table is faster than sorting all pixels
        present = np.zeros(np.iinfo(values.dtype).max + 1, np.bool_)
        present[values] = True
        levels = int(present[1:].sum())
    else:
        levels = len(np.unique(values[values != 0]))
    return levels if levels > MAX_MASK_CODES else 0


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        return _scaled(
            values, auto_range(values.dtype.kind == "f", float(np.fmax.reduce(values, axis=None, initial=0)))
        )
    # Pillow warns if a palette with transparency is converted to RGB directly.
    return _as_rgb(image.convert("RGBA") if "P" in image.mode else image)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies RGB as well


def _scaled(values: NDArray[Any], input_range: tuple[float, float]) -> Image.Image:
    """Return values (H, W) or (H, W, 3) as 8-bit RGB, with the bounds of the range as black and white."""
    low, high = input_range
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, _STRIP_PIXELS // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        strip = np.nan_to_num(values[start : start + rows].astype(np.float64))
        scaled[start : start + rows] = ((strip - low) * (255 / (high - low))).round().clip(0, 255)
    return _as_rgb(Image.fromarray(scaled))


def _decode(path: Path) -> Image.Image:
    with _open(path) as file:
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
        return file


def _read_deep_colors(path: Path, layout: str) -> NDArray[np.uint16]:
    """Return the values (H, W) or (H, W, 3) of an image in one of the layouts `_DEEP_COLORS`.

    Pillow has no mode of 16-bit colors and keeps the high bytes; in the other byte order, these are the low ones.
    """

    def read(layout: str) -> NDArray[np.uint8]:
        with _open(path) as file:
            file.tile = [_with_raw_mode(tile, layout) for tile in file.tile]
            return np.asarray(ImageOps.exif_transpose(file))

    kind, order = layout.split(";16")
    if kind == "LA":  # no other byte order, but Pillow opens it as RGBA, and four bytes per pixel are those of RGBA
        values = read("RGBA")[..., :2].astype(np.uint16)
        return values[..., 0] * 256 + values[..., 1]
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    stored = "RGBA" if kind == "RGBa" else kind  # Pillow would divide each byte by the opacity
    high, low = read(f"{stored};16{order}"), read(f"{stored};16{'B' if little else 'L'}")
    values = high.astype(np.uint16) * 256 + low
    if kind == "CMYK":
        return ((65535.0 - values[..., :3]) * (65535.0 - values[..., 3:]) / 65535).round().astype(np.uint16)
    if kind == "RGBa":
        opaque = values[..., :3] * (65535 / np.maximum(values[..., 3:], 1))
        return opaque.round().clip(0, 65535).astype(np.uint16)
    return values[..., :3]


@contextmanager
def _open(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image, of which only the header is read; exceptions in the block become an `ImageError`."""
    with _image_errors(path), Image.open(path) as file:
        if file.width * file.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        yield file


def _raw_mode(tile: Any) -> str:
    """Return the layout of the bytes in a part of an image file, such as ``RGB;16B``."""
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _with_raw_mode(tile: Any, mode: str) -> Any:
    """Return a part of an image file, described with another layout of the bytes."""
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))


@contextmanager
def _image_errors(path: Path) -> Iterator[None]:
    """Convert any exception of Pillow to an `ImageError` with the path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which is harmless; truncation raises an exception
            yield
    except FileNotFoundError:
        raise ImageError(path, "does not exist") from None
    except Image.DecompressionBombError:
        raise ImageError(
            path, f"has more than {MAX_PIXELS:,} pixels by its header, the bound of images that are decoded"
        ) from None
    except Exception as error:  # Pillow's decoders raise exceptions of many types
        reason = str(error).replace(f" {str(path)!r}", "")  # Pillow's message may contain the path as well
        raise ImageError(path, f"cannot be read as an image ({reason})") from error
