"""Decoding of image and mask files."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageOps

from moleflow.utils.errors import UserError

SUFFIXES = frozenset((
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".j2k", ".jpx", ".ppm",
    ".pgm", ".pbm", ".pnm"
))  # fmt: skip
"""Suffixes of image files in lower case; files match in any case. Formats of animations, such as GIF, are left out."""

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


def read_image(path: Path) -> Image.Image:
    """Decode an image completely and return it as 8-bit RGB in upright orientation.

    Gray values are repeated, palettes are looked up, transparency is dropped, CMYK is converted. Values of 16 bits
    (and of 32-bit integers, in which some files store 16 bits) are divided by 257, a constant, so that equal values
    are equal in all images of a category. Floats are scaled from [0, 1] if no value is larger than 1, else from
    [0, 255].

    Raises:
        ImageError: If the file is missing, truncated or damaged, or its mode has no RGB form.
    """
    return _to_rgb(_decode(path))


def read_mask(path: Path) -> Image.Image:
    """Decode a mask and return it as 8-bit gray: 255 on the defect, 0 elsewhere.

    Args:
        path: The mask file; or a folder of mask files of one image, whose union is returned, as in MVTec LOCO.

    Raises:
        ImageError: If a file is missing, truncated or damaged, or the files of a folder differ in size.
    """
    if not path.is_dir():
        return binarize_mask(_decode(path))
    parts = [binarize_mask(_decode(file)) for file in images_in(path)]
    if len({part.size for part in parts}) != 1:
        raise ImageError(path, "has masks of different sizes" if parts else "has no mask")
    return reduce(ImageChops.lighter, parts)


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
    """Return a mask as 8-bit gray: 255 where any channel of a visible pixel is nonzero, 0 elsewhere.

    Label codes such as 1, 2, 3 and 16-bit values therefore mark a defect. In a palette image, the color in the palette
    decides, because image optimizers place black at any index; if the whole palette is black, the index decides.
    """
    if "P" in mask.mode:
        has_colors = any(mask.getpalette() or [])
        marked = _visible(np.asarray(mask.convert("RGBA"))) if has_colors else np.asarray(mask.getchannel(0)) != 0
    elif mask.mode in ("LA", "La", "RGBA", "RGBa"):
        marked = _visible(np.asarray(mask.convert("RGBA")))
    else:
        values = np.asarray(mask)
        marked = (values != 0) if values.ndim == 2 else (values != 0).any(axis=-1)
    return Image.fromarray(marked.astype(np.uint8) * 255)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of an image in upright orientation; reads the header only.

    Raises:
        ImageError: If the header cannot be read.
    """
    with _image_errors(path), Image.open(path) as file:
        width, height = file.size
        swapped = file.getexif().get(ExifTags.Base.Orientation) in _SWAPPED_AXES
    return (height, width) if swapped else (width, height)


def _visible(rgba: NDArray[np.uint8]) -> NDArray[np.bool_]:
    visible: NDArray[np.bool_] = (rgba[..., :3] != 0).any(axis=-1) & (rgba[..., 3] != 0)
    return visible


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64) / 257
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        values = values * 255 if values.max(initial=0) <= 1 else values
    else:
        # Pillow warns if a palette with transparency is converted to RGB directly.
        return (image.convert("RGBA") if "P" in image.mode else image).convert("RGB")
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")


def _decode(path: Path) -> Image.Image:
    with _image_errors(path), Image.open(path) as file:
        return ImageOps.exif_transpose(file)  # copies, and therefore decodes the whole file


@contextmanager
def _image_errors(path: Path) -> Iterator[None]:
    """Convert any exception of Pillow to an `ImageError` with the path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which is harmless; truncation raises an exception
            yield
    except FileNotFoundError:
        raise ImageError(path, "does not exist") from None
    except Exception as error:  # Pillow's decoders raise exceptions of many types
        reason = str(error).replace(f" {str(path)!r}", "")  # Pillow's message may contain the path as well
        raise ImageError(path, f"cannot be read as an image ({reason})") from error
