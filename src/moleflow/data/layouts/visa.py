"""Folder layout of VisA as released: a csv that names images, splits and masks."""

import csv
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from moleflow.data.findings import Finding
from moleflow.data.layouts.base import CategoryScan, Layout, folders
from moleflow.data.samples import GOOD, SPLITS, Sample, Split, nfc
from moleflow.data.unused_files import UnusedCause, UnusedFile, cause_of_other_file, visible_files
from moleflow.utils.errors import UserError, check_choice

_COLUMNS = ("object", "split", "label", "image", "mask")
TABLE = "split_csv/1cls.csv"
"""Path of the csv of the one-class split, relative to the root."""


class VisALayout(Layout):
    """Release of VisA (Zou et al., ECCV 2022).

    ``split_csv/1cls.csv`` names the images; the label ``normal`` becomes the defect name ``good``, any other label is
    the defect name.
    """

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Return whether the folder has a folder ``split_csv``."""
        return (root / "split_csv").is_dir()

    def categories(self) -> tuple[str, ...]:
        """Return the objects of the csv, alphabetically.

        Raises:
            UserError: If the csv cannot be read.
        """
        return tuple(sorted({row["object"] for row in self._rows()}))

    def scan(self, category: str) -> CategoryScan:
        """Return the files of one category: samples, and all others with the reason.

        Raises:
            UserError: If the csv cannot be read.
        """
        category = nfc(category)
        samples: list[Sample] = []
        faults: list[Finding] = []
        files: set[Path] = set()
        own = [folder for folder in folders(self.root) if nfc(folder.name) == category]
        on_disk = {nfc(str(path.relative_to(self.root))): path for folder in own for path in visible_files(folder)}
        for row in self._rows():
            if row["object"] != category:
                continue
            path = on_disk.get(nfc(row["image"]), self.root / row["image"])
            mask = on_disk.get(nfc(row["mask"]), self.root / row["mask"]) if row["mask"] else None
            files |= {path} | ({mask} if mask else set())
            missing = [file for file in (path, mask) if file is not None and not file.is_file()]
            faults += [
                Finding(
                    "error",
                    category,
                    f"{TABLE} names {file}, which does not exist. Restore the file, or remove the row.",
                    "missing file of the csv",
                )
                for file in missing
            ]
            try:
                check_choice(f"{TABLE}, {row['image']}: split", row["split"], SPLITS)
            except UserError as error:
                faults.append(Finding("error", category, str(error), "unknown split"))
                continue
            if not missing:
                defect = GOOD if row["label"] == "normal" else row["label"]
                split: Split = "train" if row["split"] == "train" else "test"
                samples.append(Sample(path, category, split, defect, None if defect == GOOD else mask))
        samples.sort(key=lambda s: (s.split == "test", s.defect != GOOD, s.defect, s.path))
        unnamed = UnusedCause("warning", f"not named in {TABLE}", "Add a row for each image, or remove the files.")
        unused = [
            UnusedFile(path, category, cause_of_other_file(path, path.parent.parent.name == "Images") or unnamed)
            for path in on_disk.values()
            if path not in files
        ]
        return CategoryScan(self.root, category, tuple(samples), tuple(unused), tuple(faults), self.names, TABLE)

    def _is_used(self, path: Path, categories: Collection[str]) -> bool:
        return path.name == "split_csv" or super()._is_used(path, categories)

    def _rows(self) -> Iterator[dict[str, str]]:
        """Yield the rows of the csv.

        Raises:
            UserError: If it is missing, has no such column or cannot be read.
        """
        path = self.root / TABLE
        if not path.is_file():
            raise UserError(
                f"{path} does not exist. Restore it from the release of VisA, or remove the folder split_csv."
            )
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = csv.DictReader(file)
                missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
                table = [] if missing else list(rows)
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path} cannot be read ({error}). Restore it from the release of VisA.") from error
        if missing:
            raise UserError(f"{path} has no column {', '.join(missing)}. Its header must be {','.join(_COLUMNS)}.")
        for row in table:
            values = {column: (row[column] or "").strip() for column in _COLUMNS}
            for column in ("image", "mask"):  # a csv that was written on Windows may have backslashes
                values[column] = str(PurePosixPath(values[column].replace("\\", "/"))) if values[column] else ""
            yield values | {"object": nfc(values["object"])}
