"""Folder layouts of the public data sets: reading them into samples, and checks of their files.

The checks read folders and image headers only, so that ten thousand images take seconds.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moleflow.data.image_io import image_size, images_in
from moleflow.data.samples import GOOD, Sample, Split
from moleflow.utils.errors import UserError, check_choice, did_you_mean

_EXPECTED_DIRS: dict[Split, str] = {"train": "train/good", "test": "test/good and test/<defect>"}
"""Folders of a category's images in the layout of MVTec AD."""
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_VISA_TABLE = "split_csv/1cls.csv"


def available_categories(root: Path) -> tuple[str, ...]:
    """Return the categories of a data set, alphabetically.

    A root with a ``split_csv`` folder is VisA as released; its csv names the categories. Otherwise each folder that
    contains a ``train`` folder is a category.

    Raises:
        UserError: If the root does not exist.
    """
    root = _check_root(root)
    if _is_visa_release(root):
        return tuple(sorted({row["object"] for row in _visa_rows(root)}))
    return tuple(sorted(path.parent.name for path in root.glob("[!.]*/train") if path.is_dir()))


def mvtec_samples(root: Path, categories: Sequence[str]) -> list[Sample]:
    """Read and check categories in the folder layout of MVTec AD, which MPDD and many other data sets share.

    Normal training images are in ``<category>/train/good``, test images in ``<category>/test/<defect>`` with ``good``
    for normal ones, masks in ``<category>/ground_truth/<defect>/<stem>_mask.png`` (or ``<stem>.png``; with any suffix
    of an image file). A category may have no masks at all. Masks of ``good`` are ignored.

    Args:
        root: The folder of the categories.
        categories: The categories to read; the samples are in this order, then by split, defect and file name.

    Raises:
        UserError: If the root, a category, or its training or test images are missing, or images and masks do not
            match.
    """
    root = _check_root(root)
    _check_available(root, categories)
    return [sample for category in categories for sample in _checked(root, category, *_scan_mvtec(root, category))]


def visa_samples(root: Path, categories: Sequence[str]) -> list[Sample]:
    """Read and check categories of VisA, as released (with ``split_csv/1cls.csv``) or in the layout of MVTec AD.

    In the release, the label ``normal`` becomes the defect name ``good``; any other label is the defect name.

    Args:
        root: The folder of ``split_csv`` and the categories, or of the converted categories.
        categories: The categories to read; the samples are in this order, then by split, defect and path.

    Raises:
        UserError: If the root, a category, or its training or test images are missing, images and masks do not match,
            or the csv has no such column or names a missing file.
    """
    root = _check_root(root)
    _check_available(root, categories)
    return [sample for category in categories for sample in _checked(root, category, *scan_category(root, category))]


def scan_category(root: Path, category: str) -> tuple[list[Sample], list[str]]:
    """Return the samples of one category of either layout, and the faults that prevent reading others.

    Args:
        root: The folder of the data set.
        category: The category.

    Returns:
        Samples in the order of `mvtec_samples`, and one message per fault: masks without an image, and rows of VisA's
        csv with a missing file or an unknown split.

    Raises:
        UserError: If VisA's csv cannot be read.
    """
    return _scan_visa(root, category) if _is_visa_release(root) else _scan_mvtec(root, category)


def category_faults(
    category: str, samples: Sequence[Sample], size: Callable[[Path], tuple[int, int] | None] = image_size
) -> Iterator[str]:
    """Yield one message for each fault of a category's samples that prevents training or evaluation.

    Args:
        category: The category.
        samples: All its samples.
        size: Returns (width, height) of an image or mask, None to skip it, or raises `UserError` if it cannot be read.
    """
    for split, folders in _EXPECTED_DIRS.items():
        if not any(sample.split == split for sample in samples):
            yield f"{category} has no {split} images. Add some to {category}/{folders} (VisA: to {_VISA_TABLE})."
    has_masks = any(sample.mask for sample in samples)
    for sample in samples:
        if sample.split == "train" and sample.label:
            yield f"{sample.path} is a training image with the defect {sample.defect}. Move it to the test images."
        elif has_masks and sample.label and sample.mask is None:
            yield (
                f"{sample.path} has no mask, while other images of {category} have masks. Add the mask, or remove all "
                f"masks of {category}; without masks, only image metrics are computed."
            )
        if sample.mask is not None:
            try:
                image, mask = size(sample.path), size(sample.mask)
            except UserError as error:
                yield str(error)
                continue
            if image and mask and image != mask:
                yield (
                    f"{sample.mask} has {mask[0]}x{mask[1]} pixels, but its image {sample.path} has "
                    f"{image[0]}x{image[1]}. Replace it by a mask of the size of the image."
                )


def _checked(root: Path, category: str, samples: list[Sample], faults: Sequence[str]) -> list[Sample]:
    """Return the samples; raise the first fault, if there is one."""

    def all_faults() -> Iterator[str]:
        yield from faults
        yield from category_faults(category, samples)

    messages = all_faults()
    first = next(messages, None)
    if first is None:
        return samples
    more = f" There are more faults: `moleflow check-data {root}` lists all." if next(messages, None) else ""
    raise UserError(first + more)


def _scan_mvtec(root: Path, category: str) -> tuple[list[Sample], list[str]]:
    folder = root / category
    masks = {
        defect.name: {path.stem: path for path in images_in(defect)}
        for defect in _folders(folder / "ground_truth")
        if defect.name != GOOD
    }
    samples = [Sample(path, category, "train", GOOD, None) for path in images_in(folder / "train" / GOOD)]
    for defect in sorted(_folders(folder / "test"), key=lambda path: (path.name != GOOD, path.name)):
        unpaired = masks.get(defect.name, {})
        for path in images_in(defect):
            mask = unpaired.pop(f"{path.stem}_mask", None) or unpaired.pop(path.stem, None)
            samples.append(Sample(path, category, "test", defect.name, mask))
    orphans = sorted(path for unpaired in masks.values() for path in unpaired.values())
    return samples, [
        f"{path} is a mask without an image in {folder / 'test' / path.parent.name}. Add the image, or remove the mask."
        for path in orphans
    ]


def _scan_visa(root: Path, category: str) -> tuple[list[Sample], list[str]]:
    samples: list[Sample] = []
    faults: list[str] = []
    for row in _visa_rows(root):
        if row["object"] != category:
            continue
        path, mask = root / row["image"], root / row["mask"] if row["mask"] else None
        missing = [file for file in (path, mask) if file is not None and not file.is_file()]
        faults += [
            f"{_VISA_TABLE} names {file}, which does not exist. Restore the file, or remove the row."
            for file in missing
        ]
        try:
            check_choice(f"{_VISA_TABLE}, {row['image']}: split", row["split"], ("train", "test"))
        except UserError as error:
            faults.append(str(error))
            continue
        if not missing:
            defect = GOOD if row["label"] == "normal" else row["label"]
            split: Split = "train" if row["split"] == "train" else "test"
            samples.append(Sample(path, category, split, defect, None if defect == GOOD else mask))
    samples.sort(key=lambda s: (s.split == "test", s.defect != GOOD, s.defect, s.path))
    return samples, faults


def _visa_rows(root: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of VisA's csv.

    Raises:
        UserError: If it is missing, has no such column or cannot be read.
    """
    path = root / _VISA_TABLE
    if not path.is_file():
        raise UserError(f"{path} does not exist. Restore it from the release of VisA, or remove the folder split_csv.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [column for column in _VISA_COLUMNS if column not in (rows.fieldnames or ())]
            table = [] if missing else list(rows)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}). Restore it from the release of VisA.") from error
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}. Its header must be {','.join(_VISA_COLUMNS)}.")
    yield from ({column: (row[column] or "").strip() for column in _VISA_COLUMNS} for row in table)


def _check_root(root: Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"dataset.root={root} must be a folder. Set dataset.root to the folder of the categories.")
    return root


def _check_available(root: Path, categories: Sequence[str]) -> None:
    available = available_categories(root)
    for category in categories:
        if category not in available:
            listed = (
                f"It has: {', '.join(available)}." if available else "It has no category (a folder with train/good)."
            )
            raise UserError(
                f"dataset.root={root} has no category {category!r}. {listed}{did_you_mean(category, available)} "
                "Choose with dataset.categories=[...], train on all categories of any folder with dataset=folder "
                "dataset.categories=null, or correct dataset.root."
            )


def _is_visa_release(root: Path) -> bool:
    return (root / "split_csv").is_dir()


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
