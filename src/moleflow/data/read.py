"""Reading picture files of any kind, and saying clearly which one cannot be read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from moleflow.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
"""The picture files that are looked for, in lower case; any case is accepted."""

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class PictureError(UserError):
    """A picture file that is missing or damaged, told with advice for a data set.

    Args:
        path: The file.
        fault: What is wrong with it.
    """

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(path, fault)
        self.path = path
        self.fault = fault

    def __str__(self) -> str:
        """Return the message."""
        return f"{self.path} {self.fault}. Replace the file, or take it out of the data set."


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files directly in a folder, sorted by name; none if the folder does not exist."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in files if path.is_file())


def read_picture(path: Path) -> Image.Image:
    """Decode a picture completely and return it as 8-bit RGB, upright.

    Grey is repeated, palettes are looked up, transparency is dropped, CMYK is converted. Values of 16 bits (and of
    32-bit integers, which is how some files store 16) are divided by 257, so equal values stay equal in every picture
    of a category. Floats are taken as 0 to 1 if none is larger, else as 0 to 255.

    Raises:
        UserError: If the file is missing, truncated, damaged or of a kind that has no RGB form.
    """
    return _rgb(_decoded(path))


def read_mask(path: Path) -> Image.Image:
    """Decode a mask and return it as 8-bit grey: 255 where a defect is marked, 0 elsewhere.

    Raises:
        UserError: As `read_picture`.
    """
    return binary(_decoded(path))


def binary(mask: Image.Image) -> Image.Image:
    """Return a mask as 8-bit grey: 255 where any channel of a visible pixel is not zero, 0 elsewhere.

    So label codes 1, 2, 3 count, as do 16-bit values; in a palette, the looked-up colour decides (tools that shrink
    files put black anywhere in the palette), or the index where the palette holds no colour at all.
    """
    if "P" in mask.mode:
        coloured = any(mask.getpalette() or [])
        marked = _visible(np.asarray(mask.convert("RGBA"))) if coloured else np.asarray(mask.getchannel(0)) != 0
    elif mask.mode in ("LA", "La", "RGBA", "RGBa"):
        marked = _visible(np.asarray(mask.convert("RGBA")))
    else:
        values = np.asarray(mask)
        marked = (values != 0) if values.ndim == 2 else (values != 0).any(axis=-1)
    return Image.fromarray(marked.astype(np.uint8) * 255)


def picture_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of the upright picture from its header alone.

    Raises:
        UserError: If the header cannot be read.
    """
    with _naming(path), Image.open(path) as file:
        width, height = file.size
        sideways = file.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    return (height, width) if sideways else (width, height)


def _visible(rgba: NDArray[np.uint8]) -> NDArray[np.bool_]:
    visible: NDArray[np.bool_] = (rgba[..., :3] != 0).any(axis=-1) & (rgba[..., 3] != 0)
    return visible


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.float64) / 257
    elif picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
        values = values * 255 if values.max(initial=0) <= 1 else values
    else:
        # A palette may hold transparency, which only RGBA can take.
        return (picture.convert("RGBA") if "P" in picture.mode else picture).convert("RGB")
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")


def _decoded(path: Path) -> Image.Image:
    with _naming(path), Image.open(path) as file:
        return ImageOps.exif_transpose(file)  # decodes completely, as it has to copy


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes Pillow raise into one message with the path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no fault, and truncation is an error already
            yield
    except FileNotFoundError:
        raise PictureError(path, "does not exist") from None
    except Exception as error:  # Pillow's decoders raise nearly every kind
        reason = str(error).replace(f" {str(path)!r}", "")  # Pillow's own message may name the file, too
        raise PictureError(path, f"cannot be read as a picture ({reason})") from error
