"""Folder layout of Real-IAD: JSON files that list the images of five views per object."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from moleflow.data.findings import Finding
from moleflow.data.layouts.base import CategoryScan, Layout
from moleflow.data.layouts.names import DEFAULT_NAMES, LayoutNames
from moleflow.data.samples import GOOD, SPLITS, Sample, nfc
from moleflow.data.unused_files import UnusedCause, UnusedFile, cause_of_other_file, visible_files
from moleflow.utils.errors import UserError

VIEWS = (1, 2, 3, 4, 5)
"""The cameras: 1 from above, the others from four sides."""
DEFAULT_SPLIT = "realiad_jsons"
_VIEW = re.compile(r"_C([1-9])_")


class RealIADLayout(Layout):
    """Layout of Real-IAD (Wang et al., CVPR 2024): 30 categories of objects, each photographed by five cameras.

    The images of a category are in ``realiad_1024/<category>`` (or ``realiad_512``, ``realiad_256``, ``realiad_raw``):
    ``OK/S0001/<category>_0001_OK_C1_<time>.jpg`` for normal objects and
    ``NG/<defect>/S0001/<category>_0001_NG_<defect>_C1_<time>.jpg`` for others, with the mask of the same name and the
    suffix .png beside them. C1 to C5 are the views. ``realiad_jsons/<category>.json`` has ``meta`` with
    ``normal_class`` ("OK") and ``prefix`` ("<category>/"), and the lists ``train`` and ``test`` of entries with
    ``category``, ``anomaly_class``, ``image_path`` and ``mask_path`` (null for normal images), relative to the prefix.
    Other folders of splits have the same format: ``realiad_jsons_sv`` has single views, ``realiad_jsons_fuiad_<share>``
    has training sets with defects, which training on normal images excludes.

    Three details differ between copies of the release, and all are accepted: the folders of splits may be in a folder
    ``realiad_jsons``, paths may or may not begin with the prefix, and an image of an object with a defect may have no
    mask, because its view does not show the defect; such an image has the label of its entry and no defect pixel.

    Args:
        root: The folder of the data set.
        names: Ignored.
        split_dir: Folder of the JSON files.
        image_dir: Folder of the images; None: the one with the largest images.
        views: Views that are read.

    Raises:
        UserError: If a view does not exist, or the root has no such folder.
    """

    def __init__(
        self,
        root: Path,
        names: LayoutNames = DEFAULT_NAMES,
        split_dir: str = DEFAULT_SPLIT,
        image_dir: str | None = None,
        views: Sequence[int] = VIEWS,
    ) -> None:
        super().__init__(root, names)
        self.views = tuple(views)
        if not self.views or not set(self.views) <= set(VIEWS):
            raise UserError(f"dataset.views={list(views)} must be a list of views from 1 to 5.")
        self.splits = _first_folder(root, (split_dir, f"{DEFAULT_SPLIT}/{split_dir}"))
        if self.splits is None:
            raise UserError(f"dataset.split_dir={split_dir} must be a folder with JSON files in {root}.")
        self.image_dir = image_dir if image_dir is not None else _largest_images(root)
        if not (root / self.image_dir).is_dir():
            raise UserError(f"dataset.image_dir={self.image_dir} must be a folder of images in {root}.")

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Return whether the folder has a folder ``realiad_jsons``."""
        return (root / DEFAULT_SPLIT).is_dir()

    def categories(self) -> tuple[str, ...]:
        """Return the names of the JSON files, alphabetically."""
        assert self.splits is not None
        return tuple(sorted(nfc(path.stem) for path in self.splits.glob("[!.]*.json")))

    def scan(self, category: str) -> CategoryScan:
        """Return the files of one category: samples, and all others with the reason.

        Raises:
            UserError: If the JSON file cannot be read.
        """
        assert self.splits is not None
        source = self.splits / f"{category}.json"
        meta, entries = self._read(source)
        folder = self.root / self.image_dir
        samples: list[Sample] = []
        faults: list[Finding] = []
        listed: set[Path] = set()
        other_views: set[Path] = set()
        for split in SPLITS:
            for entry in entries[split]:
                path = _resolve(folder, meta["prefix"], category, entry["image_path"])
                mask = entry["mask_path"] and _resolve(folder, meta["prefix"], category, entry["mask_path"])
                files = {path, mask} if mask else {path}
                view = _VIEW.search(path.name)
                if view is not None and int(view[1]) not in self.views:
                    other_views |= files
                    continue
                listed |= files
                missing = [file for file in (path, mask) if file and not file.is_file()]
                faults += [
                    Finding(
                        "error",
                        category,
                        f"{source} names {file}, which does not exist. Restore the file, or set dataset.image_dir.",
                        f"missing file of {source.name}",
                    )
                    for file in missing
                ]
                if not missing:
                    defect = GOOD if entry["anomaly_class"] == meta["normal_class"] else entry["anomaly_class"]
                    samples.append(Sample(path, category, split, defect, mask if defect != GOOD else None))
        samples.sort(key=lambda s: (s.split == "test", s.defect != GOOD, s.defect, s.path))
        unnamed = UnusedCause("note", f"not named in the JSON files of {self.splits.name}")
        view_cause = UnusedCause("note", f"views other than dataset.views={list(self.views)} are not used")
        unused = tuple(
            UnusedFile(
                path, category, view_cause if path in other_views else cause_of_other_file(path, False) or unnamed
            )
            for path in visible_files(folder / category)
            if path not in listed
        )
        objects = {sample.path: str(sample.path.parent.relative_to(folder)) for sample in samples}
        several = len(set(objects.values())) < len(objects)
        return CategoryScan(
            self.root,
            category,
            tuple(samples),
            unused,
            tuple(faults),
            self.names,
            str(source),
            masks_optional=True,
            objects=objects if several else {},
        )

    def _is_used(self, path: Path, categories: Collection[str]) -> bool:
        return path.name == self.image_dir or path.name.startswith(DEFAULT_SPLIT)

    def _cause_outside(self, path: Path) -> UnusedCause:
        return UnusedCause("note", f"images are read from {self.image_dir}")

    @staticmethod
    def _read(path: Path) -> tuple[Mapping[str, str], Mapping[str, Sequence[Mapping[str, Any]]]]:
        """Return ``meta`` and the entries of both splits of a JSON file.

        Raises:
            UserError: If it cannot be read, or an entry lacks a key.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            meta = {key: str(content["meta"][key]) for key in ("normal_class", "prefix")}
            keys = ("anomaly_class", "image_path", "mask_path")
            return meta, {split: [{key: entry[key] for key in keys} for entry in content[split]] for split in SPLITS}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}: {error}). It must have meta, train and test as in the "
                "release of Real-IAD; restore it."
            ) from error


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    """Return the first folder that has JSON files."""
    return next((root / name for name in names if any((root / name).glob("[!.]*.json"))), None)


def _largest_images(root: Path) -> str:
    """Return the name of the folder ``realiad_<size>`` with the largest size; ``realiad_raw`` is the last choice.

    Raises:
        UserError: If there is none.
    """
    names = [path.name for path in root.glob("realiad_*") if path.is_dir() and not path.name.startswith(DEFAULT_SPLIT)]
    if not names:
        raise UserError(f"{root} has no folder of images, such as realiad_1024. Set dataset.image_dir=NAME.")

    def size(name: str) -> int:
        suffix = name.removeprefix("realiad_")
        return int(suffix) if suffix.isdecimal() else 0

    return max(sorted(names), key=size)


def _resolve(folder: Path, prefix: str, category: str, path: str) -> Path:
    """Return the file of an entry, whose path may or may not begin with the prefix."""
    place = prefix.strip("/") or category
    return folder / (path if path.startswith(f"{place}/") else f"{place}/{path}")
