"""The sample: the paths, category, split and defect of one image of a data set."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

GOOD = "good"
"""The defect name of a normal image, as in MVTec AD."""

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of one category.

    Attributes:
        path: The image file.
        category: The product category.
        split: ``"train"`` or ``"test"``.
        defect: Name of the defect; ``"good"`` for a normal image.
        mask: The mask file of the defect, or a folder of mask files whose union is the mask; ``None`` for normal images
            and for data sets without masks.
        group: Group of a training image (``dataset.group``); ``None`` for other images.
    """

    path: Path
    category: str
    split: Split
    defect: str
    mask: Path | None
    group: str | None = None

    @property
    def label(self) -> int:
        """0 for a normal image, 1 for an image with a defect."""
        return int(self.defect != GOOD)


ImageT = TypeVar("ImageT", Sample, Path)
"""An image of a data set, or the path of any other image."""


def nfc(name: str) -> str:
    """Return a name in Unicode's composed form (NFC); macOS stores the decomposed form of the same name."""
    return unicodedata.normalize("NFC", name)


def image_path(image: Sample | Path) -> Path:
    """Return the path of an image file.

    Args:
        image: A sample, or the path itself.
    """
    return image.path if isinstance(image, Sample) else Path(image)
