"""Data module of a stream of several data sets."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from moleflow.data.datamodule import ImageDataModule
from moleflow.data.findings import Finding
from moleflow.data.layouts.base import CategoryScan
from moleflow.data.transforms import ImageTransform
from moleflow.utils.errors import UserError, did_you_mean


@contextmanager
def part_errors(name: str) -> Iterator[None]:
    """Give keys in messages of ``UserError`` the place of a data set: ``dataset.parts.<name>.root``.

    Args:
        name: Name of the data set.

    Raises:
        UserError: With the changed message, in place of the original error.
    """
    try:
        yield
    except UserError as error:
        message = re.sub(r"\bdataset\.(?!parts\b)", f"dataset.parts.{name}.", str(error))
        if message == str(error):
            raise
        raise UserError(message) from error


class MixedDataModule(ImageDataModule):
    """Categories of several data sets in one stream, the data sets one after another.

    A category keeps its name; if two data sets have a category of the same name, both get the name of their data set as
    prefix: ``mvtec_capsule``.

    Args:
        parts: The data sets by name.
        transform: Transform of all images and masks.
        arguments: Further arguments of `ImageDataModule`. ``categories`` selects and orders the categories of all data
            sets.

    Raises:
        UserError: If there is no data set, a data set has shots, or ``group`` is given for all.
    """

    def __init__(self, parts: Mapping[str, ImageDataModule], transform: ImageTransform, **arguments: Any) -> None:
        if not parts:
            raise UserError(
                "dataset=mixed needs data sets. Write dataset=[mvtec,visa] dataset.parts.mvtec.root=... "
                "dataset.parts.visa.root=..."
            )
        for name, part in parts.items():
            if part.shots is not None:
                raise UserError(f"dataset.parts.{name}.shots cannot be set. Set dataset.shots, for all data sets.")
        roots = [str(part.root.absolute()) for part in parts.values()]
        if arguments.get("group") is not None:
            raise UserError("dataset.group cannot be set for several data sets. Set dataset.parts.NAME.group of each.")
        super().__init__(os.path.commonpath(roots), transform, **arguments)
        self.parts = dict(parts)

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The categories in the order of the continual sequence.

        Raises:
            UserError: If a requested category does not exist.
        """
        if self._requested is None:
            return tuple(self._places)
        for category in self._requested:
            if category not in self._places:
                raise UserError(
                    f"dataset.categories={list(self._requested)} has {category!r}, which is in no data set."
                    f"{did_you_mean(category, list(self._places))} Choose from: {', '.join(self._places)}."
                )
        return self._requested

    def prepare_data(self) -> None:
        """Prepare the data of each data set.

        Raises:
            UserError: If the data of one cannot be prepared.
        """
        for name, part in self.parts.items():
            with part_errors(name):
                part.prepare_data()

    def layout_findings(self) -> Iterator[Finding]:
        """Yield the problems of the layout of each data set, such as files that are not used."""
        for part in self.parts.values():
            yield from part.layout_findings()

    def file_name(self, path: Path) -> str:
        """Return the name of a file: the name of its data set, and the path relative to its root."""
        names = {name: part for name, part in self.parts.items() if path.is_relative_to(part.root)}
        name, part = max(names.items(), key=lambda item: len(item[1].root.parts))
        return f"{name}/{part.file_name(path)}"

    def dataset_of(self, category: str) -> str | None:
        """Return the name of the data set of a category."""
        return self._places[category][0]

    @cached_property
    def _places(self) -> dict[str, tuple[str, str]]:
        """Data set and name in it of each category, by the category's unique name."""
        pairs: list[tuple[str, str]] = []
        for name, part in self.parts.items():
            with part_errors(name):
                pairs += [(name, category) for category in part.categories]
        names = [category for _, category in pairs]
        return {(f"{pair[0]}_{pair[1]}" if names.count(pair[1]) > 1 else pair[1]): pair for pair in pairs}

    @cached_property
    def _scans(self) -> tuple[CategoryScan, ...]:
        return tuple(self._renamed(category) for category in self.categories)

    def _renamed(self, category: str) -> CategoryScan:
        """Return the files of a category, with its name in the stream."""
        name, original = self._places[category]
        with part_errors(name):
            scan = self.parts[name].scan(original)
        if category == original:
            return scan
        return replace(
            scan,
            category=category,
            samples=tuple(replace(sample, category=category) for sample in scan.samples),
            unused=tuple(replace(file, category=category) for file in scan.unused),
            faults=tuple(replace(fault, category=category) for fault in scan.faults),
        )
