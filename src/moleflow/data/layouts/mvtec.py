"""Folder layout of MVTec AD, which many data sets share."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from moleflow.data.image_io import images_in, mask_files
from moleflow.data.layouts.base import CategoryScan, Layout, folders, key
from moleflow.data.layouts.names import LayoutNames
from moleflow.data.samples import GOOD, Sample, nfc
from moleflow.data.unused_files import UnusedCause, UnusedFile, cause_of_other_file, visible_files
from moleflow.utils.errors import UserError

_NORMAL_SYNONYMS = frozenset((
    "anomalyfree", "defectfree", "fine", "good", "goods", "healthy", "intact", "nodefect", "nodefects", "nominal",
    "nondefective", "normal", "ok", "okay", "pass", "passed"
))  # fmt: skip
_MASK_SYNONYMS = frozenset((
    "annotation", "annotations", "gt", "groundtruth", "groundtruths", "label", "labels", "mask", "masks"
))  # fmt: skip
_TEST_SYNONYMS = frozenset({"test", "tests", "testing"})


class MVTecLayout(Layout):
    """Folder layout of MVTec AD (Bergmann et al., CVPR 2019), the layout of any folder without another one.

    Normal training images are in ``<category>/train/good``, test images in ``<category>/test/<defect>`` with ``good``
    for normal ones, masks in ``<category>/ground_truth/<defect>``: for the image ``<stem>.png`` the file
    ``<stem>_mask.png``, ``<stem>.png``, ``<stem>_GT_label.png`` and so on with the suffix of any image, or several
    files in a folder ``<stem>``. A category may have no masks at all. Masks of ``good`` are ignored.

    Attributes:
        unread_dirs: Folders of a category whose images are not read, with the reason.
    """

    unread_dirs: ClassVar[Mapping[str, UnusedCause]] = {}

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Return True: a folder without another layout has this one."""
        return True

    def categories(self) -> tuple[str, ...]:
        """Return the names of the folders that contain a folder ``train``, alphabetically.

        Raises:
            UserError: If two folders are forms of one name.
        """
        return tuple(sorted(self._folders()))

    def scan(self, category: str) -> CategoryScan:
        """Return the files of one category: samples, and all others with the reason."""
        category = nfc(category)
        folder = self._folders().get(category, self.root / category)
        return _MVTecScan(self.root, folder, category, self.names, self.unread_dirs).result()

    def _folders(self) -> dict[str, Path]:
        """Return the folders of the categories by their names in Unicode's composed form.

        Raises:
            UserError: If two folders are forms of one name.
        """
        result: dict[str, Path] = {}
        for path in sorted(self.root.glob("[!.]*/train")):
            if path.is_dir() and result.setdefault(nfc(path.parent.name), path.parent) != path.parent:
                raise UserError(
                    f"{self.root} has two folders {nfc(path.parent.name)}, in Unicode's composed and decomposed form. "
                    "Rename one of them."
                )
        return result


class _MVTecScan:
    """Scan of one category in the layout of MVTec AD.

    Args:
        root: The folder of the data set.
        folder: The folder of the category.
        category: The category.
        names: Names of the layout.
        unread_dirs: Folders of the category whose images are not read, with the reason.
    """

    def __init__(
        self, root: Path, folder: Path, category: str, names: LayoutNames, unread_dirs: Mapping[str, UnusedCause]
    ) -> None:
        self.root = root
        self.folder = folder
        self.category = category
        self.names = names
        self.unread_dirs = unread_dirs
        self.mask_folder = folder / names.mask_dir

    def result(self) -> CategoryScan:
        """Return the files of the category."""
        names = self.names
        test_folder = self.folder / names.test_dir
        samples = [Sample(path, self.category, "train", GOOD, None) for path in self._training_images()]
        for folder in sorted(folders(test_folder), key=lambda path: (path.name != names.normal_dir, path.name)):
            if folder == self.mask_folder:
                continue
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

    def _training_images(self) -> list[Path]:
        """Return the normal training images, which may be in folders of groups."""
        level = [self.folder / "train" / self.names.normal_dir]
        for _ in range(self.names.group_level):
            level = [path for folder in level for path in folders(folder)]
        return [path for folder in level for path in images_in(folder)]

    def _masks(self, defect: str, images: Sequence[Path]) -> dict[Path, Path]:
        """Return the mask of each image of a defect that has one: a file, or else a folder with files."""
        masks: dict[Path, Path] = {}
        for folder in folders(self.mask_folder):
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
            parts = {nfc(path.name): path for path in folders(folder) if images_in(path)}
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
        below_masks = path.relative_to(self.mask_folder).parts if path.is_relative_to(self.mask_folder) else ()
        is_mask_dir = len(below_masks) > 1
        is_image_dir = not is_mask_dir and (
            (top == "train" and kind == names.normal_dir) or (top == names.test_dir and kind != "")
        )
        other = cause_of_other_file(path, is_image_dir or is_mask_dir)
        if other is not None:
            return other
        if top in self.unread_dirs:
            return self.unread_dirs[top]
        if not is_mask_dir and top in ("train", names.test_dir) and self._is_normal_synonym(kind):
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
            return self._mask_cause(path, below_masks[0], masked)
        if key(top) in _MASK_SYNONYMS and not self.mask_folder.is_dir():
            return UnusedCause(
                "warning",
                f"the folder {top} looks like that of the masks, {names.mask_dir}, without which no pixel metrics are "
                "computed",
                f"Rename it to {names.mask_dir}, or set dataset.mask_dir={top}.",
            )
        if key(top) in _TEST_SYNONYMS and len(parts) > 1 and not (self.folder / names.test_dir).is_dir():
            return UnusedCause(
                "error", f"the folder {top} looks like {names.test_dir}", f"Rename it to {names.test_dir}."
            )
        place = "/".join(parts[:-1][:2])
        return UnusedCause(
            "warning",
            f"no images are read from {place or 'the folder of a category'}",
            f"Move them to {names.image_dirs('train')}, {names.image_dirs('test')}, or remove them.",
        )

    def _mask_cause(self, path: Path, defect: str, masked: Collection[tuple[str, str]]) -> UnusedCause:
        names = self.names
        if defect == names.normal_dir or defect == GOOD:
            return UnusedCause("note", "masks of normal images are ignored")
        parent = path.parent.relative_to(self.mask_folder).parts
        stems = [nfc(parent[1])] if len(parent) > 1 else [nfc(path.stem)]
        stems += [
            stems[0][: -len(suffix)]
            for suffix in names.mask_suffixes()
            if suffix and stems[0].casefold().endswith(suffix.casefold())
        ]
        if any((nfc(defect), stem) in masked for stem in stems):
            return UnusedCause("warning", "another mask of the same image is used", "Remove one of them.")
        return UnusedCause(
            "error",
            "no test image has this mask",
            f"The mask of {names.test_dir}/DEFECT/NAME.png is {names.mask_dir}/DEFECT/{names.mask_names('NAME')}. Add "
            "the image, rename or remove the mask, or set dataset.mask_suffix.",
        )

    def _is_normal_synonym(self, name: str) -> bool:
        return name != self.names.normal_dir and (
            key(name) in _NORMAL_SYNONYMS or key(name) == key(self.names.normal_dir)
        )
