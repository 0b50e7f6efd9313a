"""Base class of folder layouts, and the files of one category."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moleflow.data.findings import Finding
from moleflow.data.layouts.names import DEFAULT_NAMES, LayoutNames
from moleflow.data.samples import Sample, nfc
from moleflow.data.saturation import SaturationThreshold
from moleflow.data.unused_files import UnusedCause, UnusedFile, cause_of_other_file, visible_files
from moleflow.utils.errors import UserError, did_you_mean


@dataclass(frozen=True)
class CategoryScan:
    """Files of one category.

    Attributes:
        root: The folder of the data set.
        category: The category, in Unicode's composed form.
        samples: The samples, normal ones first, by split, defect and file name.
        unused: All other files, except hidden ones.
        faults: Problems of no single file on disk, such as rows of VisA's csv that name a missing file.
        names: Names of the layout.
        source: File that lists the images, for messages; empty if the folders do.
        masks_optional: Whether an image with a defect may have no mask although others have one; no pixel of it is
            then part of a defect.
        groups: Groups of defects, by defect, with metrics of their own besides those of all defects.
        saturation: Saturation thresholds by the nonzero value of a mask file; empty if the data set has none.
        objects: The photographed object of each image, if there are several images per object.
    """

    root: Path
    category: str
    samples: tuple[Sample, ...]
    unused: tuple[UnusedFile, ...]
    faults: tuple[Finding, ...] = ()
    names: LayoutNames = DEFAULT_NAMES
    source: str = ""
    masks_optional: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)
    saturation: Mapping[int, SaturationThreshold] = field(default_factory=dict)
    objects: Mapping[Path, str] = field(default_factory=dict)


class Layout(ABC):
    """Folder layout of one data set on disk.

    Args:
        root: The folder of the data set.
        names: Names in the layout of MVTec AD; other layouts ignore them.

    Attributes:
        root: The folder of the data set.
        names: Names of the layout.
    """

    def __init__(self, root: Path, names: LayoutNames = DEFAULT_NAMES) -> None:
        self.root = root
        self.names = names

    @classmethod
    @abstractmethod
    def matches(cls, root: Path) -> bool:
        """Return whether a folder has this layout.

        Args:
            root: An existing folder.
        """

    @abstractmethod
    def categories(self) -> tuple[str, ...]:
        """Return the categories alphabetically, in Unicode's composed form (NFC).

        Raises:
            UserError: If the file that lists them cannot be read, or two folders are forms of one name.
        """

    @abstractmethod
    def scan(self, category: str) -> CategoryScan:
        """Return the files of one category: samples, and all others with the reason.

        Raises:
            UserError: If the file that lists them cannot be read.
        """

    def scans(self, categories: Sequence[str]) -> tuple[CategoryScan, ...]:
        """Return the files of several categories.

        Raises:
            UserError: If a category does not exist, or a file that lists its images cannot be read.
        """
        available = self.categories()
        for category in categories:
            if nfc(category) not in available:
                listed = f"It has: {', '.join(available)}." if available else f"It {self.no_category_message()}"
                raise UserError(
                    f"dataset.root={self.root} has no category {category!r}. {listed}"
                    f"{did_you_mean(category, available)} Choose with dataset.categories=[...], train on all "
                    "categories of any folder with dataset=folder dataset.categories=null, or correct dataset.root."
                )
        return tuple(self.scan(category) for category in categories)

    def files_outside(self, categories: Collection[str]) -> Iterator[UnusedFile]:
        """Yield the files of a data set that belong to no category, except hidden ones.

        Args:
            categories: All its categories.
        """
        for path in sorted(self.root.iterdir()):
            if path.name.startswith(".") or self._is_used(path, categories):
                continue
            for file in visible_files(path) if path.is_dir() else [path]:
                yield UnusedFile(file, "", cause_of_other_file(file, False) or self._cause_outside(path))

    def no_category_message(self) -> str:
        """Return why the folder has no category, and the files of a category."""
        similar = sorted(
            path for path in self.root.glob("[!.]*/*") if path.is_dir() and path.name.casefold() == "train"
        )
        if similar:
            return f"has no category: {similar[0]} looks like the folder train. Rename it to train."
        return (
            "has no category. A category is a folder with images in train/good and test/good, test/<defect>. Set "
            "dataset.root to the folder above it."
        )

    def _is_used(self, path: Path, categories: Collection[str]) -> bool:
        """Return whether an entry of the root is a category, or belongs to the layout itself."""
        return nfc(path.name) in categories

    def _cause_outside(self, path: Path) -> UnusedCause:
        """Return why the images of a folder, or an image, directly in the root are not used."""
        if not path.is_dir():
            message = "Move images to CATEGORY/train/good and CATEGORY/test."
            return UnusedCause("warning", "outside all categories", message)
        for folder in folders(path):
            if key(folder.name) in ("train", "training"):
                return UnusedCause(
                    "warning",
                    f"{path.name} is no category: {folder.name} looks like the folder train",
                    "Rename it to train.",
                )
        return UnusedCause(
            "warning",
            f"{path.name} is no category, because it has no folder train",
            "Add train/good, or remove the folder.",
        )


def folders(folder: Path) -> list[Path]:
    """Return the visible folders directly in a folder, sorted; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def key(name: str) -> str:
    """Return a name in lower case without separators, to compare similar names."""
    return "".join(character for character in nfc(name).casefold() if character not in "_- .")
