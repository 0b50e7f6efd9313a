"""Files of a data set that are not read, and the reason."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.findings import Finding, Severity
from moleflow.data.image_io import SUFFIXES

_UNSUPPORTED_FORMATS = frozenset((
    ".apng", ".arw", ".avif", ".avifs", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".eps", ".exr", ".fit", ".fits",
    ".gif", ".hdr", ".heic", ".heif", ".ico", ".j2c", ".jxl", ".nef", ".npy", ".npz", ".orf", ".pcx", ".pfm", ".psd",
    ".raw", ".rw2", ".svg", ".tga", ".xcf"
))  # fmt: skip
"""Suffixes of image formats that are not read: several images per file, vector graphics, raw sensor values, or formats
that Pillow reads with a plugin only."""

_DOCUMENTS = frozenset((
    ".bak", ".cfg", ".csv", ".db", ".docx", ".dvc", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".lnk", ".log",
    ".md", ".pdf", ".py", ".rst", ".sh", ".toml", ".tsv", ".txt", ".url", ".xlsx", ".xml", ".yaml", ".yml", ".zip"
))  # fmt: skip
"""Suffixes of files that cannot be mistaken for images."""

_UNSUFFIXED_DOCUMENTS = frozenset({"license", "readme", "copying", "authors", "makefile"})


@dataclass(frozen=True)
class UnusedCause:
    """Why files are not used.

    Attributes:
        severity: ``error`` if the files were probably meant to be used, so that a run stops.
        reason: The reason, without full stop; the same for one and several files.
        remedy: What to do, as a sentence; may be empty.
    """

    severity: Severity
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class UnusedFile:
    """A file that is not read.

    Attributes:
        path: The file.
        category: Its category; empty for a file outside all categories.
        cause: Why it is not used.
    """

    path: Path
    category: str
    cause: UnusedCause

    def finding(self) -> Finding:
        """Return the finding that names this file."""
        reason, remedy = self.cause.reason, f" {self.cause.remedy}" if self.cause.remedy else ""
        return Finding(
            self.cause.severity,
            self.category,
            f"{self.path} is not used: {reason}.{remedy}",
            f"unused: {reason}",
            f"{{count}} files are not used: {reason}, such as {self.path}.{remedy}",
        )


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield all files and broken links below a folder, sorted; hidden files and folders are left out.

    Links to folders are followed, except to a folder that contains the link.
    """
    yield from _visible_files(folder, frozenset())


def cause_of_other_file(path: Path, in_image_folder: bool) -> UnusedCause | None:
    """Return why a file is not used as an image wherever it lies; None for an image file.

    Args:
        path: The file.
        in_image_folder: Whether images are read from its folder, so that the file is probably meant to be an image.
    """
    suffix = path.suffix.lower()
    document = suffix in _DOCUMENTS or path.name.lower() in _UNSUFFIXED_DOCUMENTS
    if not path.exists() and (suffix in SUFFIXES or (in_image_folder and not document)):
        return UnusedCause(
            "error",
            "the target of the link does not exist",
            "Fetch the files (`dvc pull`, `git annex get .`), or remove the links.",
        )
    if suffix in SUFFIXES:
        return None if path.is_file() else UnusedCause("warning", "no regular file", "Remove it.")
    if suffix in _UNSUPPORTED_FORMATS:
        return UnusedCause("warning", f"the image format {suffix} is not supported", "Convert the files to .png.")
    if in_image_folder and not document:
        return UnusedCause(
            "warning",
            f"the suffix {suffix} is not that of an image" if suffix else "the name has no suffix",
            "Rename images to the suffix of their format, such as .png; remove other files.",
        )
    return UnusedCause("note", "not an image")


def count_by_folder(files: Iterable[UnusedFile], root: Path) -> str:
    """Return sentences with the number of files per folder and suffix, empty without files.

    Args:
        files: The files.
        root: The folder that paths are relative to.
    """
    folders: dict[str, dict[str, int]] = {}
    for file in files:
        suffixes = folders.setdefault(str(file.path.parent.relative_to(root)), {})
        suffix = file.path.suffix.lower() or "no suffix"
        suffixes[suffix] = suffixes.get(suffix, 0) + 1
    sentences = []
    for folder, suffixes in sorted(folders.items(), key=lambda item: -sum(item[1].values()))[:3]:
        count = sum(suffixes.values())
        listed = ", ".join(f"{suffix} ({number})" for suffix, number in sorted(suffixes.items()))
        verb = "file" if count == 1 else "files"
        sentences.append(f" {count} {verb} in {folder} {'is' if count == 1 else 'are'} not used: {listed}.")
    return "".join(sentences)


def _visible_files(folder: Path, ancestors: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in ancestors or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _visible_files(path, ancestors | {real})
        else:
            yield path
