"""Folder layouts of the public data sets, read into samples and checked before anything is learned.

Checks read directory entries and headers only, so that a data set of ten thousand pictures is checked in seconds.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from moleflow.data.read import picture_size, pictures_in
from moleflow.data.sample import GOOD, Sample, Split
from moleflow.errors import UserError, choice, nearest

PLACES: dict[Split, str] = {"train": "train/good", "test": "test/good and test/<defect>"}
"""Where the pictures of a category lie in the tree of MVTec AD."""
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")


def available_categories(root: Path) -> tuple[str, ...]:
    """Return the categories that a root holds, alphabetically.

    A root with a ``split_csv`` folder is VisA as released: its csv names the objects. Else every folder with a
    ``train`` folder in it is a category.

    Raises:
        UserError: If the root does not exist.
    """
    root = _existing(root)
    if is_visa_release(root):
        return tuple(sorted({row["object"] for row in visa_rows(root)}))
    return tuple(sorted(path.parent.name for path in root.glob("[!.]*/train") if path.is_dir()))


def mvtec_samples(root: Path, categories: Sequence[str]) -> list[Sample]:
    """Read categories in the tree of MVTec AD, which MPDD and many others share.

    Normal pictures to learn from lie in ``<category>/train/good``, pictures to test on in ``<category>/test/<type>``
    with ``good`` for the normal ones, masks in ``<category>/ground_truth/<type>/<stem>_mask.png`` (or
    ``<stem>.png``; any known suffix). A category in which no mask lies has none; masks of ``good`` are not read.

    Args:
        root: The folder that holds the categories.
        categories: Which to read; the samples come in this order, then by split, defect and file name.

    Raises:
        UserError: If root, category, training or test pictures are missing, or masks and pictures do not pair up.
    """
    root = _existing(root)
    _known(root, categories)
    return [sample for category in categories for sample in _mvtec_category(root, category)]


def visa_samples(root: Path, categories: Sequence[str]) -> list[Sample]:
    """Read categories of VisA, as released (``split_csv/1cls.csv``) or converted to the MVTec tree.

    In the release, the label ``normal`` becomes the defect name ``good``; any other label is the defect's name.

    Args:
        root: The folder that holds ``split_csv`` and the objects, or the converted categories.
        categories: Which to read; the samples come in this order, then by split, defect and path.

    Raises:
        UserError: As `mvtec_samples`, or if the csv lacks a column or points to a missing file.
    """
    root = _existing(root)
    if not is_visa_release(root):
        return mvtec_samples(root, categories)
    _known(root, categories)
    samples: dict[str, list[Sample]] = {category: [] for category in categories}
    for row in visa_rows(root):
        if row["object"] in samples:
            samples[row["object"]].append(_visa_sample(root, row))
    for category in categories:
        samples[category].sort(key=lambda s: (s.split == "test", s.defect != GOOD, s.defect, s.path))
        _check(samples[category], category, where=root / "split_csv" / "1cls.csv")
    return [sample for category in categories for sample in samples[category]]


def _mvtec_category(root: Path, category: str) -> list[Sample]:
    samples, left = mvtec_pairs(root, category)
    if left:
        raise UserError(
            f"{left[0]} is a mask without picture{_more(left)}: no file of that name lies in "
            f"{root / category / 'test' / left[0].parent.name}. Add the picture, or remove the mask."
        )
    _check(samples, category, where=root / category)
    return samples


def mvtec_pairs(root: Path, category: str) -> tuple[list[Sample], list[Path]]:
    """Return the samples of one category in the tree of MVTec AD, unchecked, and the masks that no picture has."""
    folder = root / category
    masks = {
        kind.name: {path.stem: path for path in pictures_in(kind)}
        for kind in _folders(folder / "ground_truth")
        if kind.name != GOOD
    }
    samples = [Sample(path, category, "train", GOOD, None) for path in pictures_in(folder / "train" / GOOD)]
    for kind in sorted(_folders(folder / "test"), key=lambda kind: (kind.name != GOOD, kind.name)):
        of_kind = masks.get(kind.name, {})
        for path in pictures_in(kind):
            mask = of_kind.pop(f"{path.stem}_mask", None) or of_kind.pop(path.stem, None)
            samples.append(Sample(path, category, "test", kind.name, mask))
    return samples, sorted(path for of_kind in masks.values() for path in of_kind.values())


def visa_rows(root: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of VisA's table.

    Raises:
        UserError: If it is missing, lacks a column or cannot be read.
    """
    path = root / "split_csv" / "1cls.csv"
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
        raise UserError(f"{path} lacks {', '.join(missing)}. Its header has to be: {','.join(_VISA_COLUMNS)}.")
    yield from ({column: (row[column] or "").strip() for column in _VISA_COLUMNS} for row in table)


def _visa_sample(root: Path, row: dict[str, str]) -> Sample:
    split: Split = (
        "train" if choice("split_csv/1cls.csv: split", row["split"], ("train", "test")) == "train" else "test"
    )
    path, mask = root / row["image"], root / row["mask"] if row["mask"] else None
    for file in (path, *([mask] if mask else [])):
        if not file.is_file():
            raise UserError(f"split_csv/1cls.csv points to {file}, which does not exist. Restore it, or drop the row.")
    if row["label"] == "normal":
        return Sample(path, row["object"], split, GOOD, None)
    return Sample(path, row["object"], split, row["label"], mask)


def _check(samples: Sequence[Sample], category: str, where: Path) -> None:
    """Raise unless the samples of a category can be learned from, tested on, and scored pixel by pixel."""
    for split in PLACES:
        if not any(sample.split == split for sample in samples):
            raise UserError(f"{category} has no {split} pictures ({where}). Put some into {PLACES[split]}.")
    taught = [sample.path for sample in samples if sample.split == "train" and sample.label]
    if taught:
        raise UserError(f"{taught[0]} is to be learned from, yet it has a defect{_more(taught)}. Move it to the test.")
    if not any(sample.mask for sample in samples):
        return
    unmarked = [sample.path for sample in samples if sample.label and not sample.mask]
    if unmarked:
        raise UserError(
            f"{unmarked[0]} has no mask{_more(unmarked)}, while other pictures of {category} have one. "
            f"Add the mask, or remove all masks of {category}: it then gets image metrics only."
        )
    for sample in samples:
        if sample.mask:
            picture, mask = picture_size(sample.path), picture_size(sample.mask)
            if picture != mask:
                raise UserError(
                    f"{sample.mask} is {mask[0]}x{mask[1]} pixels, but its picture {sample.path} is "
                    f"{picture[0]}x{picture[1]}. Make the mask as large as its picture."
                )


def _existing(root: Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"dataset.root={root} is no folder. Set dataset.root to the folder that holds the categories.")
    return root


def _known(root: Path, categories: Iterable[str]) -> None:
    here = available_categories(root)
    for category in categories:
        if category not in here:
            listed = (
                f"It holds: {', '.join(here)}." if here else "It holds no category (a folder with train/good in it)."
            )
            raise UserError(
                f"dataset.root={root} has no category {category!r}. {listed}{nearest(category, here)} "
                "Choose with dataset.categories=[...], learn all of any folder with dataset=folder "
                "dataset.categories=null, or correct dataset.root."
            )


def is_visa_release(root: Path) -> bool:
    """Whether the root is VisA as released, with a table of its pictures."""
    return (root / "split_csv").is_dir()


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _more(paths: Sequence[Path]) -> str:
    return f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
