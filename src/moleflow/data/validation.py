"""Checks of data sets, complete for ``moleflow check-data`` and inexpensive at the start of a run.

Test images with the content of a training image are errors in ``moleflow check-data`` and warnings at the start of a
run, which continues.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from PIL import Image

from moleflow.data.duplicates import repeated_images, too_few_training_images, train_test_duplicates
from moleflow.data.findings import Finding
from moleflow.data.image_io import image_size, read_image, read_mask
from moleflow.data.layouts.checks import category_faults, layout_findings
from moleflow.data.layouts.detection import layout_of
from moleflow.data.layouts.names import DEFAULT_NAMES, LayoutNames
from moleflow.data.mask_coverage import MaskCoverage, coverage_loss, crop_loss, mask_coverage
from moleflow.data.samples import SPLITS, Sample
from moleflow.data.saturation import SaturationThreshold, read_regions
from moleflow.data.transforms import ImageTransform
from moleflow.data.value_checks import value_warnings
from moleflow.utils.errors import UserError
from moleflow.utils.io import sha256

if TYPE_CHECKING:  # Lightning takes seconds to import
    from moleflow.data.datamodule import ImageDataModule

DEFAULT_SIZE = 224
"""Size of the transform whose lost defect pixels `check_dataset` reports: that of a run with default settings."""
PAPER_TRANSFORM = ImageTransform(DEFAULT_SIZE, "crop")
"""The transform of the recorded experiments (``view=paper``)."""
_ASPECT_TOLERANCE = 0.1  # relative deviation of an image's aspect ratio from its category's median


@dataclass(frozen=True)
class _DecodedSample:
    """Properties of a sample's decoded files.

    Attributes:
        size: (width, height) of the image; None if it cannot be read.
        mask_size: (width, height) of the mask; None if it cannot be read or there is none.
        coverage: Coverage of the mask by the default transform; None if it cannot be read or there is none.
        paper_coverage: Coverage of the mask by the transform of the recorded experiments.
        faults: Messages about files that cannot be read.
    """

    size: tuple[int, int] | None
    mask_size: tuple[int, int] | None
    coverage: MaskCoverage | None
    paper_coverage: MaskCoverage | None
    faults: tuple[str, ...]


def check_dataset(
    root: Path, names: LayoutNames = DEFAULT_NAMES, input_range: str | Sequence[float] = "auto"
) -> tuple[list[Finding], int]:
    """Decode every image and mask of a data set in any known layout, and list all problems.

    Args:
        root: The folder of the categories.
        names: Names of the layout of MVTec AD.
        input_range: Argument of :class:`~moleflow.data.transforms.ImageTransform`, as in a run.

    Returns:
        The problems, category by category, and the number of images.

    Raises:
        UserError: If the root does not exist or has no category, or the input range is empty.
    """
    transform = ImageTransform(DEFAULT_SIZE, "proportional", input_range=input_range)
    layout = layout_of(root, names)
    categories = layout.categories()
    if not categories:
        raise UserError(f"{root} {layout.no_category_message()}")
    scans = layout.scans(categories)
    findings = list(layout_findings(scans, layout, categories))
    decoded: dict[Sample, _DecodedSample] = {}
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        for scan in scans:
            decode = partial(_decode, transform=transform, saturation=scan.saturation)
            decoded.update(zip(scan.samples, pool.map(decode, scan.samples), strict=True))
    sizes: dict[Path, tuple[int, int] | None] = {}
    for sample, result in decoded.items():
        sizes[sample.path] = result.size
        if sample.mask is not None:
            sizes[sample.mask] = result.mask_size
        findings += [Finding("error", sample.category, fault) for fault in result.faults]
    for scan in scans:
        findings += category_faults(scan, sizes.__getitem__, sizes.__getitem__)
    digests = {sample.path: sha256(sample.path) for sample, result in decoded.items() if result.size}
    findings += _common_findings(
        categories,
        list(decoded),
        transform,
        coverage=lambda sample: decoded[sample].coverage,
        key=lambda path: digests.get(path, str(path)),  # a damaged image is no duplicate
        size=sizes.__getitem__,
    )
    image_sizes = {scan.category: [size for s in scan.samples if (size := sizes[s.path])] for scan in scans}
    paper_masks = [result.paper_coverage for result in decoded.values() if result.paper_coverage]
    if any(image_sizes.values()):
        loss = crop_loss(image_sizes, paper_masks, PAPER_TRANSFORM)
        if loss.largest:
            findings.append(Finding("note", "", f"view=paper, as in the recorded experiments, would crop {loss}."))
    return sorted(findings, key=lambda finding: ("", *categories).index(finding.category)), len(decoded)


def dataset_findings(data: "ImageDataModule", key: Callable[[Path], str]) -> Iterator[Finding]:
    """Yield the problems of the data of a run that do not stop it: those of `check_dataset` for its categories.

    Masks are decoded, of images only the headers are read; `check_dataset` decodes all files.

    Args:
        data: The data of the run.
        key: Returns the same text for the same content of an image file, such as a digest.

    Raises:
        UserError: If an image or mask cannot be read.
    """
    yield from data.layout_findings()
    samples = [sample for category in data.categories for split in SPLITS for sample in data.samples(split, category)]
    if data.transform.mode == "crop":
        sizes = {c: [image_size(sample.path) for sample in samples if sample.category == c] for c in data.categories}
        loss = crop_loss(sizes, map(data.mask_coverage, samples), data.transform)
        advice = " view=full uses the whole images." if loss.largest else ""
        yield Finding("warning" if loss.largest else "note", "", f"transform.mode=crop removes {loss}.{advice}")
    yield from _common_findings(data.categories, samples, data.transform, data.mask_coverage, key, image_size)


def _common_findings(
    categories: Sequence[str],
    samples: Sequence[Sample],
    transform: ImageTransform,
    coverage: Callable[[Sample], MaskCoverage | None],
    key: Callable[[Path], str],
    size: Callable[[Path], tuple[int, int] | None],
) -> Iterator[Finding]:
    """Yield the problems that both `check_dataset` and `dataset_findings` detect.

    Args:
        categories: The categories.
        samples: Their samples.
        transform: The transform; defect pixels lost by the transform are reported.
        coverage: Returns the coverage of a sample's mask; None if the mask cannot be read.
        key: Function that returns equal texts for image files of equal content.
        size: Returns (width, height) of an image; None if it cannot be read.
    """
    for category in categories:
        labels = {sample.label for sample in samples if (sample.category, sample.split) == (category, "test")}
        for label, kind in ((0, "normal test images"), (1, "test images with a defect")):
            if label not in labels:
                message = f"{category} has no {kind}: its AUROC is undefined and excluded from the means."
                yield Finding("warning", category, message)
        if 1 in labels and not any(sample.mask for sample in samples if sample.category == category):
            message = f"{category} has no masks: it has no pixel metrics and is excluded from their means."
            plural = f"{{count}} categories have no masks, such as {category}: they are excluded from pixel metrics."
            yield Finding("note", category, message, "category without masks", plural)
    for train, test in train_test_duplicates(samples, key):
        pair = f"{test.path} has the same content as the training image {train.path}."
        plural = f"{{count}} test images have the content of a training image, such as: {pair}"
        yield Finding("error", test.category, f"The test image {pair}", "test image in training", plural)
    yield from repeated_images(samples, key)
    yield from too_few_training_images(samples, key)
    masks: dict[str, list[MaskCoverage]] = defaultdict(list)
    for sample in samples:
        if sample.mask is not None and (mask := coverage(sample)) is not None:
            masks[sample.category].append(mask)
            if not mask.pixels:
                message = f"{sample.mask} has no defect pixel, but {sample.path} is labeled {sample.defect}."
                plural = f"{{count}} masks have no defect pixel, such as {sample.mask} of {sample.path}."
                yield Finding("warning", sample.category, message, "mask without defect pixel", plural)
    for category in categories:
        loss = coverage_loss(masks[category])
        if loss.emptied:
            yield Finding("warning", category, loss.message(category, transform))
        sizes = ((sample.path, size(sample.path)) for sample in samples if sample.category == category)
        yield from _aspect_ratios(category, {path: size for path, size in sizes if size})
    for category, message in value_warnings(samples, coverage, transform.input_range):
        yield Finding("warning", category, message)


def _decode(sample: Sample, transform: ImageTransform, saturation: Mapping[int, SaturationThreshold]) -> _DecodedSample:
    """Decode the files of a sample, and check the values of its mask if there are saturation thresholds."""
    faults: list[str] = []

    def read(reader: Callable[[Path], Image.Image], path: Path | None) -> Image.Image | None:
        try:
            return None if path is None else reader(path)
        except UserError as error:
            faults.append(str(error))
            return None

    image, mask = read(read_image, sample.path), read(read_mask, sample.mask)
    if saturation and mask is not None and sample.mask is not None:
        try:
            read_regions(sample.mask, saturation)
        except UserError as error:
            faults.append(str(error))
    return _DecodedSample(
        size=None if image is None else image.size,
        mask_size=None if mask is None else mask.size,
        coverage=None if mask is None else mask_coverage(mask, transform),
        paper_coverage=None if mask is None else mask_coverage(mask, PAPER_TRANSFORM),
        faults=tuple(faults),
    )


def _aspect_ratios(category: str, sizes: Mapping[Path, tuple[int, int]]) -> Iterator[Finding]:
    """Yield the images of a category whose aspect ratio is unlike that of the others.

    Args:
        category: The category.
        sizes: (width, height) of its images.
    """
    ratios = {path: size[0] / size[1] for path, size in sizes.items()}
    usual = median(ratios.values()) if ratios else 1.0
    for path, ratio in ratios.items():
        if abs(ratio / usual - 1) > _ASPECT_TOLERANCE:
            unlike = f"{path} has an aspect ratio of {ratio:.2f}:1"
            yield Finding(
                "warning",
                category,
                f"{unlike}, unlike most images of {category} ({usual:.2f}:1).",
                f"aspect ratio {category}",
                f"{{count}} images of {category} differ in aspect ratio from most others ({usual:.2f}:1): {unlike}.",
            )
