"""Checks of the files of a data set.

The checks read folders and image headers only, so that ten thousand images take seconds.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moleflow.data.findings import Finding, summarize
from moleflow.data.image_io import image_size, mask_size
from moleflow.data.layouts.base import CategoryScan, Layout, key
from moleflow.data.samples import SPLITS, Sample, Split
from moleflow.data.unused_files import count_by_folder
from moleflow.utils.errors import UserError


def checked_samples(scans: Sequence[CategoryScan]) -> list[Sample]:
    """Return the samples of several categories.

    Args:
        scans: The categories; the samples are in their order, then by split, defect and file name.

    Raises:
        UserError: With the first error, if there is one: training or test images are missing, images and masks do not
            match, a folder or file was probably meant to be used but is not, or a file that lists the images names a
            missing one.
    """

    def errors(scan: CategoryScan) -> Iterator[Finding]:
        yield from scan.faults
        yield from (finding for file in scan.unused if (finding := file.finding()).severity == "error")
        yield from category_faults(scan)

    for scan in scans:
        messages = summarize(finding for finding in errors(scan) if finding.severity == "error")
        if messages:
            command = shlex.join(["moleflow", "check-data", str(scan.root), *scan.names.arguments()])
            more = f" There are more faults: `{command}` lists all." if messages[1:] else ""
            raise UserError(messages[0].message + more)
    return [sample for scan in scans for sample in scan.samples]


def layout_findings(
    scans: Sequence[CategoryScan], layout: Layout | None = None, categories: Sequence[str] = ()
) -> Iterator[Finding]:
    """Yield one finding for each fault of the layout and each file that is not used.

    Args:
        scans: Categories of the data set.
        layout: The layout, to include the files outside of all categories; None to leave them out.
        categories: All categories of the data set.
    """
    for scan in scans:
        yield from scan.faults
        yield from (file.finding() for file in scan.unused)
    if layout is not None:
        yield from (file.finding() for file in layout.files_outside(categories))


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
            place = scan.source or f"{category}/{names.image_dirs(split)}"
            yield fault(f"{category} has no {split} images. Add some to {place}.{count_by_folder(unused, scan.root)}")
    has_masks = any(sample.mask for sample in scan.samples)
    for sample in scan.samples:
        if sample.split == "train" and sample.label:
            yield fault(
                f"{sample.path} is a training image with the defect {sample.defect}. Move it to the test images.",
                "training defect",
            )
        elif has_masks and sample.label and sample.mask is None and not scan.masks_optional:
            place = scan.source or f"{names.mask_dir}/{sample.defect}: {names.mask_names(sample.path.stem)}"
            yield fault(
                f"{sample.path} has no mask, while other images of {category} have masks. Add the mask to {place}; "
                f"or remove all masks of {category}; without masks, only image metrics are computed.",
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


def _is_below(path: Path, scan: CategoryScan, split: Split) -> bool:
    """Whether a file of a category is in a split's folder, or in one that looks like it."""
    parts = path.relative_to(scan.root).parts
    return len(parts) > 2 and key(parts[1]).startswith(split)
