"""Folder layouts of the public data sets: reading them into samples, and checks of their files.

The checks read folders and image headers only, so that ten thousand images take seconds.
"""

import csv
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

from moleflow.data.findings import Finding, summarize
from moleflow.data.image_io import image_size, images_in, mask_files, mask_size
from moleflow.data.samples import GOOD, SPLITS, Sample, Split, nfc
from moleflow.data.unused_files import UnusedCause, UnusedFile, cause_of_other_file, count_by_folder, visible_files
from moleflow.utils.errors import UserError, check_choice, did_you_mean

_VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_VISA_TABLE = "split_csv/1cls.csv"

_MASK_SUFFIXES = ("_mask", "", "_gt", "_label", "_gt_label", "_ground_truth", "_groundtruth", "_seg")
"""Suffixes of mask names in the order of their precedence, after ``mask_suffix``; compared in any case."""

_NORMAL_SYNONYMS = frozenset((
    "anomalyfree", "defectfree", "fine", "good", "goods", "healthy", "intact", "nodefect", "nodefects", "nominal",
    "nondefective", "normal", "ok", "okay", "pass", "passed"
))  # fmt: skip
_MASK_SYNONYMS = frozenset((
    "annotation", "annotations", "gt", "groundtruth", "groundtruths", "label", "labels", "mask", "masks"
))  # fmt: skip
_TEST_SYNONYMS = frozenset({"test", "tests", "testing"})


@dataclass(frozen=True)
class LayoutNames:
    """Names in the folder layout of MVTec AD that a data set may choose.

    Attributes:
        normal_dir: Folder of the normal images in ``train`` and ``test``.
        mask_dir: Folder of the masks in a category.
        mask_suffix: Suffix of the name of a mask after the name of its image.

    Raises:
        UserError: If a folder is not one visible folder's name, or the suffix contains a separator.
    """

    normal_dir: str = GOOD
    mask_dir: str = "ground_truth"
    mask_suffix: str = "_mask"

    def __post_init__(self) -> None:
        for key in ("normal_dir", "mask_dir"):
            name = getattr(self, key)
            if not isinstance(name, str) or not name or name.startswith(".") or {"/", "\\"} & set(name):
                raise UserError(f"dataset.{key}={name} must be the name of one folder, such as {_DEFAULTS[key]}.")
        if not isinstance(self.mask_suffix, str) or {"/", "\\"} & set(self.mask_suffix):
            raise UserError(f"dataset.mask_suffix={self.mask_suffix} must be a part of a file name, such as _mask.")
        if self.mask_dir in SPLITS:
            raise UserError(f"dataset.mask_dir={self.mask_dir} must not be a folder of images.")

    def arguments(self) -> list[str]:
        """Return the arguments of ``moleflow check-data`` for the names that are not the default ones."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return [f"--{key.replace('_', '-')}={value}" for key, (value, default) in values.items() if value != default]

    def image_dirs(self, split: Split) -> str:
        """Return the folders of a split's images, for messages."""
        return f"train/{self.normal_dir}" if split == "train" else f"test/{self.normal_dir} and test/<defect>"

    def mask_suffixes(self) -> list[str]:
        """Return the accepted suffixes of mask names, each once, in the order of their precedence."""
        return list(dict.fromkeys((self.mask_suffix, *_MASK_SUFFIXES)))

    def mask_names(self, stem: str) -> str:
        """Return the accepted names of the mask of an image, for messages.

        Args:
            stem: Name of the image without suffix.
        """
        names = [f"{stem}{suffix}.png" for suffix in self.mask_suffixes()]
        return f"{', '.join(names[:3])} (with any suffix of an image), or the masks of a folder {stem}"


_DEFAULTS = {"normal_dir": GOOD, "mask_dir": "ground_truth"}
DEFAULT_NAMES = LayoutNames()


@dataclass(frozen=True)
class CategoryScan:
    """Files of one category.

    Attributes:
        root: The folder of the data set.
        category: The category, in Unicode's composed form.
        samples: The samples, normal ones first, by split, defect and file name.
        unused: All other files, except hidden ones.
        faults: Errors that are no error of a file on disk, such as rows of VisA's csv that name a missing file.
        names: Names of the layout.
    """

    root: Path
    category: str
    samples: tuple[Sample, ...]
    unused: tuple[UnusedFile, ...]
    faults: tuple[Finding, ...] = ()
    names: LayoutNames = DEFAULT_NAMES


def available_categories(root: Path) -> tuple[str, ...]:
    """Return the categories of a data set, alphabetically, in Unicode's composed form (NFC).

    A root with a ``split_csv`` folder is VisA as released; its csv names the categories. Otherwise each folder that
    contains a ``train`` folder is a category.

    Raises:
        UserError: If the root does not exist, or two folders are forms of one name.
    """
    root = _check_root(root)
    if _is_visa_release(root):
        return tuple(sorted({row["object"] for row in _visa_rows(root)}))
    return tuple(sorted(_category_folders(root)))


def no_category_message(root: Path) -> str:
    """Return why a folder has no category, and what a category is."""
    similar = sorted(path for path in root.glob("[!.]*/*") if path.is_dir() and path.name.casefold() == "train")
    if similar:
        return f"has no category: {similar[0]} looks like the folder train. Rename it to train."
    return (
        "has no category. A category is a folder with images in train/good and test/good, test/<defect>. Set "
        "dataset.root to the folder above it."
    )


def read_samples(root: Path, categories: Sequence[str], names: LayoutNames = DEFAULT_NAMES) -> list[Sample]:
    """Read and check categories in the folder layout of MVTec AD, which many data sets share, or of VisA as released.

    In the layout of MVTec AD, normal training images are in ``<category>/train/good``, test images in
    ``<category>/test/<defect>`` with ``good`` for normal ones, masks in ``<category>/ground_truth/<defect>``: for the
    image ``<stem>.png`` the file ``<stem>_mask.png``, ``<stem>.png``, ``<stem>_GT_label.png`` and so on with the suffix
    of any image, or several files in a folder ``<stem>`` as in MVTec LOCO. A category may have no masks at all. Masks
    of ``good`` are ignored.

    In the release of VisA, ``split_csv/1cls.csv`` names the images; the label ``normal`` becomes the defect name
    ``good``, any other label is the defect name.

    Args:
        root: The folder of the categories.
        categories: The categories to read; the samples are in this order, then by split, defect and file name.
        names: Names of the layout of MVTec AD.

    Raises:
        UserError: If the root, a category, or its training or test images are missing, images and masks do not match,
            a folder or file was probably meant to be used but is not, or VisA's csv is damaged.
    """
    return checked_samples(scan_categories(root, categories, names))


def scan_categories(
    root: Path, categories: Sequence[str], names: LayoutNames = DEFAULT_NAMES
) -> tuple[CategoryScan, ...]:
    """Return the files of several categories.

    Raises:
        UserError: If the root or a category does not exist, or VisA's csv cannot be read.
    """
    root = _check_root(root)
    _check_available(root, categories)
    return tuple(scan_category(root, category, names) for category in categories)


def scan_category(root: Path, category: str, names: LayoutNames = DEFAULT_NAMES) -> CategoryScan:
    """Return the files of one category of either layout: samples, and all others with the reason.

    Raises:
        UserError: If VisA's csv cannot be read.
    """
    if _is_visa_release(root):
        return _scan_visa(root, nfc(category), names)
    return _MVTecScan(root, nfc(category), names).result()


def checked_samples(scans: Sequence[CategoryScan]) -> list[Sample]:
    """Return the samples of several categories.

    Raises:
        UserError: With the first error, if there is one.
    """

    def errors(scan: CategoryScan) -> Iterator[Finding]:
        yield from scan.faults
        yield from (finding for file in scan.unused if (finding := file.finding()).severity == "error")
        yield from category_faults(scan)

    for scan in scans:
        messages = summarize(errors(scan))
        if messages:
            command = shlex.join(["moleflow", "check-data", str(scan.root), *scan.names.arguments()])
            more = f" There are more faults: `{command}` lists all." if messages[1:] else ""
            raise UserError(messages[0].message + more)
    return [sample for scan in scans for sample in scan.samples]


def layout_findings(
    root: Path, scans: Sequence[CategoryScan], categories: Sequence[str] | None = None
) -> Iterator[Finding]:
    """Yield one finding for each fault of the layout and each file that is not used.

    Args:
        root: The folder of the data set.
        scans: Its categories.
        categories: All categories of the data set, to include the files outside of them; None to leave them out.
    """
    for scan in scans:
        yield from scan.faults
        yield from (file.finding() for file in scan.unused)
    if categories is not None:
        yield from (file.finding() for file in files_outside_categories(root, categories))


def files_outside_categories(root: Path, categories: Collection[str]) -> Iterator[UnusedFile]:
    """Yield the files of a data set that belong to no category, except hidden ones.

    Args:
        root: The folder of the data set.
        categories: All its categories.
    """
    release = _is_visa_release(root)
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or nfc(path.name) in categories or (release and path.name == "split_csv"):
            continue
        for file in visible_files(path) if path.is_dir() else [path]:
            yield UnusedFile(file, "", cause_of_other_file(file, False) or _cause_outside_categories(path))


def category_faults(
    scan: CategoryScan,
    size: Callable[[Path], tuple[int, int] | None] = image_size,
    size_of_mask: Callable[[Path], tuple[int, int] | None] = mask_size,
) -> Iterator[Finding]:
    """Yield each fault of a category's samples that prevents training or evaluation.

    Args:
        scan: The files of the category.
        size: Returns (width, height) of an image, None to skip it, or raises `UserError` if it cannot be read.
        size_of_mask: The same for a mask, which may be a folder.
    """
    category, names = scan.category, scan.names

    def fault(message: str, cause: str = "") -> Finding:
        return Finding("error", category, message, cause)

    for split in SPLITS:
        if not any(sample.split == split for sample in scan.samples):
            unused = [file for file in scan.unused if _is_below(file.path, scan, split)]
            yield fault(
                f"{category} has no {split} images. Add some to {category}/{names.image_dirs(split)} (VisA: to "
                f"{_VISA_TABLE}).{count_by_folder(unused, scan.root)}"
            )
    has_masks = any(sample.mask for sample in scan.samples)
    for sample in scan.samples:
        if sample.split == "train" and sample.label:
            yield fault(
                f"{sample.path} is a training image with the defect {sample.defect}. Move it to the test images.",
                "training defect",
            )
        elif has_masks and sample.label and sample.mask is None:
            yield fault(
                f"{sample.path} has no mask, while other images of {category} have masks. Add the mask to "
                f"{names.mask_dir}/{sample.defect}: {names.mask_names(sample.path.stem)}; or remove all masks of "
                f"{category}; without masks, only image metrics are computed.",
                "no mask",
            )
        if sample.mask is not None:
            try:
                image, mask = size(sample.path), size_of_mask(sample.mask)
            except UserError as error:
                yield fault(str(error))
                continue
            if image and mask and image != mask:
                yield fault(
                    f"{sample.mask} has {mask[0]}x{mask[1]} pixels, but its image {sample.path} has "
                    f"{image[0]}x{image[1]}. Replace it by a mask of the size of the image.",
                    "mask size",
                )


class _MVTecScan:
    """Scan of one category in the layout of MVTec AD.

    Args:
        root: The folder of the data set.
        category: The category.
        names: Names of the layout.
    """

    def __init__(self, root: Path, category: str, names: LayoutNames) -> None:
        self.root = root
        self.category = category
        self.names = names
        self.folder = _category_folders(root).get(category, root / category)
        self.mask_folder = self.folder / names.mask_dir

    def result(self) -> CategoryScan:
        """Return the files of the category."""
        names = self.names
        samples = [
            Sample(path, self.category, "train", GOOD, None)
            for path in images_in(self.folder / "train" / names.normal_dir)
        ]
        for folder in sorted(
            _folders(self.folder / "test"), key=lambda path: (path.name != names.normal_dir, path.name)
        ):
            if folder.name == names.normal_dir:
                samples += [Sample(path, self.category, "test", GOOD, None) for path in images_in(folder)]
            elif not self._is_normal_synonym(folder.name):
                images = images_in(folder)
                masks = self._masks(folder.name, images)
                samples += [Sample(path, self.category, "test", folder.name, masks.get(path)) for path in images]
        used = {sample.path for sample in samples}
        used |= {file for sample in samples if sample.mask for file in mask_files(sample.mask)}
        masked = {(nfc(sample.defect), nfc(sample.path.stem)) for sample in samples if sample.mask}
        unused = [
            UnusedFile(path, self.category, self._cause(path, masked))
            for path in visible_files(self.folder)
            if path not in used
        ]
        return CategoryScan(self.root, self.category, tuple(samples), tuple(unused), names=names)

    def _masks(self, defect: str, images: Sequence[Path]) -> dict[Path, Path]:
        """Return the mask of each image of a defect that has one: a file, or else a folder with files."""
        masks: dict[Path, Path] = {}
        for folder in _folders(self.mask_folder):
            if nfc(folder.name) != nfc(defect):
                continue
            files: dict[str, Path] = {}
            for file in images_in(folder):
                files.setdefault(nfc(file.stem), file)
            in_any_case = {name.casefold(): name for name in reversed(files)}
            for suffix in self.names.mask_suffixes():
                for image in images:
                    stem = nfc(image.stem)
                    name = f"{stem}{suffix}"
                    name = name if name in files else in_any_case.get(name.casefold(), "")
                    if image not in masks and name.startswith(stem) and name in files:
                        masks[image] = files.pop(name)
            parts = {nfc(path.name): path for path in _folders(folder) if images_in(path)}
            for image in images:
                if image not in masks and nfc(image.stem) in parts:
                    masks[image] = parts.pop(nfc(image.stem))
        return masks

    def _cause(self, path: Path, masked: Collection[tuple[str, str]]) -> UnusedCause:
        """Return why a file below the category is not used.

        Args:
            path: The file.
            masked: Defect and stem of the images that have a mask, in Unicode's composed form.
        """
        parts = path.relative_to(self.folder).parts
        top, kind = parts[0], parts[1] if len(parts) > 2 else ""
        names = self.names
        is_image_dir = (top == "train" and kind == names.normal_dir) or (top == "test" and kind != "")
        is_mask_dir = top == names.mask_dir and kind != ""
        other = cause_of_other_file(path, is_image_dir or is_mask_dir)
        if other is not None:
            return other
        if top in SPLITS and kind != names.normal_dir and self._is_normal_synonym(kind):
            return UnusedCause(
                "error",
                f"the folder {top}/{kind} looks like that of normal images, {top}/{names.normal_dir}",
                f"Rename it to {names.normal_dir}, or set dataset.normal_dir={kind}.",
            )
        if is_image_dir:
            return UnusedCause(
                "warning",
                f"images are read from {names.image_dirs('train')}, {names.image_dirs('test')} directly, not from "
                "folders below",
                "Move them up, or make each sub-folder a category.",
            )
        if is_mask_dir:
            return self._mask_cause(path, kind, masked)
        if _key(top) in _MASK_SYNONYMS and not self.mask_folder.is_dir():
            return UnusedCause(
                "warning",
                f"the folder {top} looks like that of the masks, {names.mask_dir}, without which no pixel metrics are "
                "computed",
                f"Rename it to {names.mask_dir}, or set dataset.mask_dir={top}.",
            )
        if _key(top) in _TEST_SYNONYMS and len(parts) > 1 and not (self.folder / "test").is_dir():
            return UnusedCause("error", f"the folder {top} looks like test", "Rename it to test.")
        place = "/".join(parts[:-1][:2])
        return UnusedCause(
            "warning",
            f"no images are read from {place or 'the folder of a category'}",
            f"Move them to {names.image_dirs('train')}, {names.image_dirs('test')}, or remove them.",
        )

    def _mask_cause(self, path: Path, defect: str, masked: Collection[tuple[str, str]]) -> UnusedCause:
        if defect == self.names.normal_dir or defect == GOOD:
            return UnusedCause("note", "masks of normal images are ignored")
        parent = path.parent.relative_to(self.mask_folder).parts
        stems = [nfc(parent[1])] if len(parent) > 1 else [nfc(path.stem)]
        stems += [
            stems[0][: -len(suffix)]
            for suffix in self.names.mask_suffixes()
            if suffix and stems[0].casefold().endswith(suffix.casefold())
        ]
        if any((nfc(defect), stem) in masked for stem in stems):
            return UnusedCause("warning", "another mask of the same image is used", "Remove one of them.")
        return UnusedCause(
            "error",
            "no test image has this mask",
            f"The mask of test/DEFECT/NAME.png is {self.names.mask_dir}/DEFECT/{self.names.mask_names('NAME')}. Add "
            "the image, rename or remove the mask, or set dataset.mask_suffix.",
        )

    def _is_normal_synonym(self, name: str) -> bool:
        return name != self.names.normal_dir and (
            _key(name) in _NORMAL_SYNONYMS or _key(name) == _key(self.names.normal_dir)
        )


def _scan_visa(root: Path, category: str, names: LayoutNames) -> CategoryScan:
    samples: list[Sample] = []
    faults: list[Finding] = []
    files: set[Path] = set()
    folders = [folder for folder in _folders(root) if nfc(folder.name) == category]
    on_disk = {nfc(str(path.relative_to(root))): path for folder in folders for path in visible_files(folder)}
    for row in _visa_rows(root):
        if row["object"] != category:
            continue
        path = on_disk.get(nfc(row["image"]), root / row["image"])
        mask = on_disk.get(nfc(row["mask"]), root / row["mask"]) if row["mask"] else None
        files |= {path} | ({mask} if mask else set())
        missing = [file for file in (path, mask) if file is not None and not file.is_file()]
        faults += [
            Finding(
                "error",
                category,
                f"{_VISA_TABLE} names {file}, which does not exist. Restore the file, or remove the row.",
                "missing file of the csv",
            )
            for file in missing
        ]
        try:
            check_choice(f"{_VISA_TABLE}, {row['image']}: split", row["split"], SPLITS)
        except UserError as error:
            faults.append(Finding("error", category, str(error), "unknown split"))
            continue
        if not missing:
            defect = GOOD if row["label"] == "normal" else row["label"]
            split: Split = "train" if row["split"] == "train" else "test"
            samples.append(Sample(path, category, split, defect, None if defect == GOOD else mask))
    samples.sort(key=lambda s: (s.split == "test", s.defect != GOOD, s.defect, s.path))
    unnamed = UnusedCause("warning", f"not named in {_VISA_TABLE}", "Add a row for each image, or remove the files.")
    unused = [
        UnusedFile(path, category, cause_of_other_file(path, path.parent.parent.name == "Images") or unnamed)
        for path in on_disk.values()
        if path not in files
    ]
    return CategoryScan(root, category, tuple(samples), tuple(unused), tuple(faults), names)


def _cause_outside_categories(path: Path) -> UnusedCause:
    """Return why the images of a folder, or an image, directly in the root are not used."""
    if not path.is_dir():
        return UnusedCause("warning", "outside all categories", "Move images to CATEGORY/train/good and CATEGORY/test.")
    for folder in _folders(path):
        if _key(folder.name) in ("train", "training"):
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
    for row in table:
        values = {column: (row[column] or "").strip() for column in _VISA_COLUMNS}
        for column in ("image", "mask"):  # a csv that was written on Windows may have backslashes
            values[column] = str(PurePosixPath(values[column].replace("\\", "/"))) if values[column] else ""
        yield values | {"object": nfc(values["object"])}


def _check_root(root: Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"dataset.root={root} must be a folder. Set dataset.root to the folder of the categories.")
    return root


def _check_available(root: Path, categories: Sequence[str]) -> None:
    available = available_categories(root)
    for category in categories:
        if nfc(category) not in available:
            listed = f"It has: {', '.join(available)}." if available else f"It {no_category_message(root)}"
            raise UserError(
                f"dataset.root={root} has no category {category!r}. {listed}{did_you_mean(category, available)} "
                "Choose with dataset.categories=[...], train on all categories of any folder with dataset=folder "
                "dataset.categories=null, or correct dataset.root."
            )


def _category_folders(root: Path) -> dict[str, Path]:
    """Return the folders of the categories by their names in Unicode's composed form.

    Raises:
        UserError: If two folders are forms of one name.
    """
    folders: dict[str, Path] = {}
    for path in sorted(root.glob("[!.]*/train")):
        if path.is_dir() and folders.setdefault(nfc(path.parent.name), path.parent) != path.parent:
            raise UserError(
                f"{root} has two folders {nfc(path.parent.name)}, in Unicode's composed and decomposed form. Rename "
                "one of them."
            )
    return folders


def _is_visa_release(root: Path) -> bool:
    return (root / "split_csv").is_dir()


def _is_below(path: Path, scan: CategoryScan, split: Split) -> bool:
    """Whether a file of a category is in a split's folder, or in one that looks like it."""
    parts = path.relative_to(scan.root).parts
    return len(parts) > 2 and _key(parts[1]).startswith(split)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _key(name: str) -> str:
    """Return a name in lower case without separators, to compare similar names."""
    return "".join(character for character in nfc(name).casefold() if character not in "_- .")
