"""Samples of a folder in any layout, for tests."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from moleflow.data.findings import summarize
from moleflow.data.layouts.checks import checked_samples, layout_findings
from moleflow.data.layouts.detection import layout_of
from moleflow.data.layouts.names import DEFAULT_NAMES, LayoutNames
from moleflow.data.samples import Sample


def read_samples(root: Path, categories: Sequence[str], names: LayoutNames = DEFAULT_NAMES) -> list[Sample]:
    """Return the checked samples of some categories of a folder, as the data module reads them."""
    return checked_samples(layout_of(root, names).scans(categories))


def counts(samples: Sequence[Sample]) -> list[int]:
    """Return the numbers of normal and defective training images, and of normal and defective test images."""
    return [
        sum((s.split, s.label) == key for s in samples)
        for key in (("train", 0), ("train", 1), ("test", 0), ("test", 1))
    ]


def unused(root: Path, category: str = "bottle", names: LayoutNames = DEFAULT_NAMES) -> list[str]:
    """Return severity and message of each cause for which files of a category are not used."""
    scans = layout_of(root, names).scans([category])
    return [f"{finding.severity} {finding.message}" for finding in summarize(layout_findings(scans))]


def copy(root: Path, source: str, *targets: str) -> None:
    """Copy a file of a data set to other names below the root."""
    for target in targets:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / source, root / target)
