"""Reads a whole data set and lists what is wrong with it, all of it and not only the first fault."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from PIL import Image

from moleflow.data.doubts import shared_pictures
from moleflow.data.layouts import PLACES, available_categories, is_visa_release, mvtec_pairs, visa_rows
from moleflow.data.marks import Marks, lost, marks
from moleflow.data.read import read_mask, read_picture
from moleflow.data.sample import GOOD, Sample
from moleflow.data.transforms import PictureTransform
from moleflow.errors import UserError, choice
from moleflow.files import sha256

DEFAULT_VIEW = PictureTransform(224)
"""What is said of cut defects holds for a run without further settings."""
Severity = Literal["error", "warning"]
ELONGATED = 1.5
"""Longer over shorter side from which the default crop loses a third of the picture."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: ``error`` where a run stops or its results are void, else ``warning``.
        category: The category.
        message: What it is, with the file.
    """

    severity: Severity
    category: str
    message: str


@dataclass(frozen=True)
class _Seen:
    """What decoding a sample showed; sizes are (width, height), None if unreadable."""

    size: tuple[int, int] | None
    mask_size: tuple[int, int] | None
    marks: Marks | None
    faults: tuple[str, ...]


def check(root: Path) -> tuple[list[Finding], int]:
    """Decode every picture and mask below a root in the tree of MVTec AD or VisA.

    Args:
        root: The folder that holds the categories.

    Returns:
        What is wrong, category by category, and the number of pictures read.

    Raises:
        UserError: If the root does not exist or holds no category.
    """
    categories = available_categories(root)
    if not categories:
        raise UserError(f"{root} holds no category: a folder with pictures in train/good and test/good, test/<defect>.")
    findings: list[Finding] = []
    count = 0
    with ThreadPoolExecutor() as pool:  # decoding leaves the interpreter's lock
        for category in categories:
            samples, faults = _gathered(root, category)
            seen = list(pool.map(_seen, samples))
            count += len(samples)
            findings += [Finding("error", category, fault) for fault in faults]
            findings += _of_category(category, samples, seen)
    return findings, count


def _gathered(root: Path, category: str) -> tuple[list[Sample], list[str]]:
    """Return a category's samples and what is wrong with the way they are filed."""
    if not is_visa_release(root):
        samples, orphans = mvtec_pairs(root, category)
        return samples, [f"{path} is a mask without picture." for path in orphans]
    samples, faults = [], []
    for row in visa_rows(root):
        if row["object"] != category:
            continue
        path, mask = root / row["image"], root / row["mask"] if row["mask"] else None
        gone = [file for file in (path, mask) if file and not file.is_file()]
        faults += [f"split_csv/1cls.csv points to {file}, which does not exist." for file in gone]
        try:
            split = choice("split", row["split"], ("train", "test"))
        except UserError as error:
            faults.append(f"split_csv/1cls.csv, {row['image']}: {error}")
        else:
            defect = GOOD if row["label"] == "normal" else row["label"]
            if not gone:
                samples.append(Sample(path, category, "train" if split == "train" else "test", defect, mask))
    return samples, faults


def _seen(sample: Sample) -> _Seen:
    faults: list[str] = []

    def opened(read: Callable[[Path], Image.Image], path: Path | None) -> Image.Image | None:
        try:
            return None if path is None else read(path)
        except UserError as error:
            faults.append(str(error))
            return None

    picture, mask = opened(read_picture, sample.path), opened(read_mask, sample.mask)
    sizes = [None if image is None else image.size for image in (picture, mask)]
    return _Seen(sizes[0], sizes[1], None if mask is None else marks(mask, DEFAULT_VIEW), tuple(faults))


def _of_category(category: str, samples: Sequence[Sample], seen: Sequence[_Seen]) -> Iterator[Finding]:
    def error(message: str) -> Finding:
        return Finding("error", category, message)

    def warning(message: str) -> Finding:
        return Finding("warning", category, message)

    for split, label, what, finding in (
        ("train", 0, f"no training pictures: put some into {PLACES['train']}", error),
        ("test", 0, "no normal test pictures: AUROC does not exist", warning),
        ("test", 1, "no test pictures with a defect: nothing can be measured", warning),
    ):
        if not any((sample.split, sample.label) == (split, label) for sample in samples):
            yield finding(f"{category} has {what}.")
    masked = any(sample.mask for sample in samples)
    sizes = [shown.size for shown in seen if shown.size]
    usual = median(width / height for width, height in sizes) if sizes else 1.0
    for sample, shown in zip(samples, seen, strict=True):
        yield from (error(fault) for fault in shown.faults)
        if sample.split == "train" and sample.label:
            yield error(f"{sample.path} is to be learned from, yet it has the defect {sample.defect}.")
        if masked and sample.label and not sample.mask:
            yield error(f"{sample.path} has no mask, while other pictures of {category} have one.")
        if shown.marks is not None and not shown.marks.pixels:
            yield warning(f"{sample.mask} marks nothing.")
        if shown.size and shown.mask_size and shown.size != shown.mask_size:
            yield error(f"{sample.mask} is {_text(shown.mask_size)} pixels, its picture {_text(shown.size)}.")
        if shown.size and abs(shown.size[0] / shown.size[1] / usual - 1) > 0.1:
            yield warning(f"{sample.path} is {_text(shown.size)}: of another shape than most of {category}.")
    if max(usual, 1 / usual) > ELONGATED:
        cut = 1 - min(usual, 1 / usual)
        yield warning(
            f"{category} has pictures of {usual:.2f}:1; the default transform.mode=crop cuts {cut:.0%} off. "
            "Consider view=full."
        )
    lacking = lost(shown.marks for shown in seen if shown.marks is not None)
    if lacking.emptied or lacking.pixels:
        yield warning(lacking.sentence(category, DEFAULT_VIEW))
    readable = [sample for sample, shown in zip(samples, seen, strict=True) if shown.size]
    digests = {sample.path: sha256(sample.path) for sample in readable}
    for learned, tested in shared_pictures(readable, digests.__getitem__):
        yield error(f"{tested.path} has the same content as {learned.path}: tested on and learned from.")
    same: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for sample in readable:
        same[sample.split, digests[sample.path]].append(sample.path)
    for (split, _), paths in same.items():
        if len(paths) > 1:
            yield warning(f"{len(paths)} {split} pictures have one content: {', '.join(map(str, paths))}.")


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
