"""Checks of a data set: of every file for ``moleflow check-data``, and inexpensive ones before every training."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

from PIL import Image

from moleflow.data.image_io import read_image, read_mask
from moleflow.data.layouts import available_categories, category_faults, scan_category
from moleflow.data.mask_coverage import MaskCoverage, coverage_loss, mask_coverage
from moleflow.data.samples import Sample, Split
from moleflow.data.transforms import ImageTransform
from moleflow.data.value_checks import value_warnings
from moleflow.utils.errors import UserError
from moleflow.utils.io import sha256

if TYPE_CHECKING:  # Lightning takes seconds to import
    from moleflow.data.datamodule import ImageDataModule

DEFAULT_TRANSFORM = ImageTransform(224)
"""The transform for which `check_dataset` reports the loss of defect pixels: that of a run with default settings."""
MAX_ASPECT_RATIO = 1.5
"""Longer over shorter side above which the default crop removes more than a third of an image."""
_ASPECT_TOLERANCE = 0.1  # relative deviation of an image's aspect ratio from its category's median

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One problem of a data set.

    Attributes:
        severity: ``error`` if a run stops or its results are invalid, else ``warning``.
        category: The category.
        message: The problem, with the file.
    """

    severity: Severity
    category: str
    message: str


@dataclass(frozen=True)
class _DecodedSample:
    """Properties of a sample's decoded files.

    Attributes:
        size: (width, height) of the image; None if it cannot be read.
        mask_size: (width, height) of the mask; None if it cannot be read or there is none.
        coverage: Coverage of the mask; None if it cannot be read or there is none.
        faults: Messages about files that cannot be read.
    """

    size: tuple[int, int] | None
    mask_size: tuple[int, int] | None
    coverage: MaskCoverage | None
    faults: tuple[str, ...]


def check_dataset(root: Path) -> tuple[list[Finding], int]:
    """Decode every image and mask of a data set in the layout of MVTec AD or VisA, and list all problems.

    Args:
        root: The folder of the categories.

    Returns:
        The problems, category by category, and the number of images.

    Raises:
        UserError: If the root does not exist or has no category.
    """
    categories = available_categories(root)
    if not categories:
        raise UserError(
            f"{root} has no category. A category is a folder with images in train/good and test/good, test/<defect>."
        )
    findings: list[Finding] = []
    samples: list[Sample] = []
    decoded: dict[Sample, _DecodedSample] = {}
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        for category in categories:
            scanned, faults = scan_category(root, category)
            decoded.update(zip(scanned, pool.map(_decode, scanned), strict=True))
            findings += [Finding("error", category, fault) for fault in faults]
            findings += _category_findings(category, scanned, decoded)
            samples += scanned
    digests = {sample.path: sha256(sample.path) for sample, result in decoded.items() if result.size}
    findings += _common_findings(
        categories,
        samples,
        DEFAULT_TRANSFORM,
        coverage=lambda sample: decoded[sample].coverage,
        key=lambda path: digests.get(path, str(path)),  # a damaged image is no duplicate
    )
    findings += _repeated_images(samples, digests)
    return sorted(findings, key=lambda finding: categories.index(finding.category)), len(samples)


def dataset_warnings(data: "ImageDataModule", key: Callable[[Path], str]) -> Iterator[str]:
    """Yield one message for each problem that makes the results of a run doubtful.

    Masks are decoded, images are only compared by ``key``; `check_dataset` decodes all files.

    Args:
        data: The data of the run.
        key: Returns the same text for the same content of an image file, such as a digest.

    Raises:
        UserError: If an image or mask cannot be read.
    """
    splits: tuple[Split, ...] = ("train", "test")
    samples = [sample for category in data.categories for split in splits for sample in data.samples(split, category)]
    for finding in _common_findings(data.categories, samples, data.transform, data.mask_coverage, key):
        yield finding.message


def train_test_duplicates(samples: Sequence[Sample], key: Callable[[Path], str]) -> Iterator[tuple[Sample, Sample]]:
    """Yield (training image, test image) for each test image with the content of a training image.

    Args:
        samples: Training and test images. Of several training images with one content, the first is yielded.
        key: Returns the same text for the same content of an image file, such as a digest.
    """
    training: dict[str, Sample] = {}
    for sample in samples:
        if sample.split == "train":
            training.setdefault(key(sample.path), sample)
    for sample in samples:
        if sample.split == "test" and (duplicate := training.get(key(sample.path))) is not None:
            yield duplicate, sample


def _common_findings(
    categories: Sequence[str],
    samples: Sequence[Sample],
    transform: ImageTransform,
    coverage: Callable[[Sample], MaskCoverage | None],
    key: Callable[[Path], str],
) -> Iterator[Finding]:
    """Yield the problems that are looked for both in a whole check and before a training.

    Args:
        categories: The categories.
        samples: Their samples.
        transform: The transform for which the loss of defect pixels is reported.
        coverage: Returns the coverage of a sample's mask; None if the mask cannot be read.
        key: Returns the same text for the same content of an image file.
    """
    for category in categories:
        labels = {sample.label for sample in samples if (sample.category, sample.split) == (category, "test")}
        for label, kind in ((0, "normal test images"), (1, "test images with a defect")):
            if label not in labels:
                message = f"{category} has no {kind}: its AUROC is undefined and excluded from the means."
                yield Finding("warning", category, message)
    for train, test in train_test_duplicates(samples, key):
        message = f"The test image {test.path} has the same content as the training image {train.path}."
        yield Finding("error", test.category, message)
    masks: dict[str, list[MaskCoverage]] = defaultdict(list)
    for sample in samples:
        if sample.mask is not None and (mask := coverage(sample)) is not None:
            masks[sample.category].append(mask)
            if not mask.pixels:
                message = f"{sample.mask} has no defect pixel, but {sample.path} is labeled {sample.defect}."
                yield Finding("warning", sample.category, message)
    for category in categories:
        loss = coverage_loss(masks[category])
        if loss.emptied or loss.pixels:
            yield Finding("warning", category, loss.message(category, transform))
    for category, message in value_warnings(samples, coverage, transform.input_range):
        yield Finding("warning", category, message)


def _decode(sample: Sample) -> _DecodedSample:
    faults: list[str] = []

    def read(reader: Callable[[Path], Image.Image], path: Path | None) -> Image.Image | None:
        try:
            return None if path is None else reader(path)
        except UserError as error:
            faults.append(str(error))
            return None

    image, mask = read(read_image, sample.path), read(read_mask, sample.mask)
    return _DecodedSample(
        size=None if image is None else image.size,
        mask_size=None if mask is None else mask.size,
        coverage=None if mask is None else mask_coverage(mask, DEFAULT_TRANSFORM),
        faults=tuple(faults),
    )


def _category_findings(
    category: str, samples: Sequence[Sample], decoded: dict[Sample, _DecodedSample]
) -> Iterator[Finding]:
    """Yield the problems of one category's decoded files."""
    sizes: dict[Path, tuple[int, int] | None] = {}
    for sample in samples:
        result = decoded[sample]
        sizes[sample.path] = result.size
        if sample.mask is not None:
            sizes[sample.mask] = result.mask_size
        for fault in result.faults:
            yield Finding("error", category, fault)
    for fault in category_faults(category, samples, sizes.__getitem__):
        yield Finding("error", category, fault)
    images = ((sample.path, sizes[sample.path]) for sample in samples)
    ratios = {path: size[0] / size[1] for path, size in images if size}
    usual = median(ratios.values()) if ratios else 1.0
    for path, ratio in ratios.items():
        if abs(ratio / usual - 1) > _ASPECT_TOLERANCE:
            message = f"{path} has an aspect ratio of {ratio:.2f}:1, unlike most images of {category} ({usual:.2f}:1)."
            yield Finding("warning", category, message)
    if max(usual, 1 / usual) > MAX_ASPECT_RATIO:
        yield Finding(
            "warning",
            category,
            f"{category} has images with an aspect ratio of {usual:.2f}:1; the default transform.mode=crop removes "
            f"{1 - min(usual, 1 / usual):.0%} of each. Consider view=full.",
        )


def _repeated_images(samples: Sequence[Sample], digests: dict[Path, str]) -> Iterator[Finding]:
    """Yield one warning for each content that several images of a category and split have."""
    groups: dict[tuple[str, Split, str], list[Path]] = defaultdict(list)
    for sample in samples:
        if sample.path in digests:
            groups[sample.category, sample.split, digests[sample.path]].append(sample.path)
    for (category, split, _), paths in groups.items():
        if len(paths) > 1:
            message = f"{len(paths)} {split} images have the same content: {', '.join(map(str, paths))}."
            yield Finding("warning", category, message)
