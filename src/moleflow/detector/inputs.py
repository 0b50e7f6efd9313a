"""Images to score: files, folders of files, and images in memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from moleflow.data.image_io import SUFFIXES, ImageSource

_MASK_FOLDERS = frozenset(("ground_truth", "groundtruth", "masks"))  # in lower case; they hold no images to score


def iterate_images(images: ImageSource | Iterable[ImageSource]) -> Iterator[ImageSource]:
    """Yield images one by one, those of a folder in the order of their paths.

    Args:
        images: A file, a folder, a Pillow image, an array (H, W) or (H, W, C), a tensor of these shapes or (C, H, W);
            or an iterable of such images, for example an array (N, H, W, C).
    """
    if isinstance(images, (str, Path)):
        path = Path(images)
        yield from files_in(path) if path.is_dir() else [path]
    elif isinstance(images, Image.Image) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim <= 3):
        yield images
    else:
        for image in images:
            yield from iterate_images(image) if isinstance(image, (str, Path)) else [image]


def image_file(image: ImageSource) -> Path | None:
    """Return the path of an image; None for an image in memory."""
    return Path(image) if isinstance(image, (str, Path)) else None


def files_in(folder: Path) -> list[Path]:
    """Return the image files of a folder at any depth, sorted; without hidden files and folders of masks."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted(
        file for file in files if not _MASK_FOLDERS & {p.lower() for p in file.relative_to(folder).parts[:-1]}
    )
