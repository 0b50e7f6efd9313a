"""Warnings about pixel values: ranges that images do not fit, and masks that mark other than the defect."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.trees import write_mvtec_tree
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.transforms import ImageTransform
from moleflow.data.validation import check_dataset, dataset_findings
from moleflow.utils.io import sha256


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"), size=(32, 32))


def warnings_of(root: Path, input_range: str | Sequence[float] = "auto") -> list[str]:
    """Return the warnings of a run, after a comparison with those of the check."""
    transform = ImageTransform(224, "proportional", input_range=input_range)
    warnings = [finding.message for finding in dataset_findings(FolderDataModule(root, transform), sha256)]
    findings, _ = check_dataset(root, input_range=input_range)
    assert sorted(finding.message for finding in findings) == sorted(warnings)
    return warnings


def images_of(root: Path, category: str) -> list[Path]:
    """Return the images in the order of the data set's samples."""
    folders = [root / category / name for name in ("train/good", "test/good", "test/dent", "test/spot")]
    return [path for folder in folders for path in sorted(folder.iterdir())]


def convert(root: Path, category: str, scale: float, dtype: type, shift: float = 0.0) -> list[Path]:
    """Store the images of a category as TIFF with their gray values times a scale, and return them."""
    images = []
    for path in images_of(root, category):
        values = np.asarray(Image.open(path).convert("L")).astype(np.float64)
        values[0, 0] = 255  # the maximum of each image is known
        values[0, 1] = 0
        images.append(path.with_suffix(".tif"))
        Image.fromarray((values * scale + shift).astype(dtype)).save(images[-1])
        path.unlink()
    return images


def test_images_of_8_bits_have_no_warnings(root: Path) -> None:
    for path in images_of(root, "bottle"):  # dark images as well
        Image.fromarray(np.asarray(Image.open(path)) // 8).save(path)
    assert warnings_of(root) == []


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_12_bits_in_a_file_of_16_bits(root: Path, dtype: type) -> None:
    example = convert(root, "bottle", 4095 / 255, dtype)[0]
    (warning,) = warnings_of(root)
    assert warning == (
        "bottle: 12 images with more than 8 bits use a small part of [0,65535] and become dark, with few gray levels: "
        f"their largest value is 4095, in {example}. Set transform.input_range=[0,4095]."
    )
    assert warnings_of(root, input_range=[0, 4095]) == []


def test_full_range_of_16_bits_has_no_warnings(root: Path) -> None:
    images = convert(root, "bottle", 257, np.uint16)
    Image.fromarray(np.asarray(Image.open(images[0])) // 100).save(images[0])  # a dark image among bright ones
    assert warnings_of(root) == []


def test_floats_above_255(root: Path) -> None:
    images = convert(root, "bottle", 1, np.float32)
    assert warnings_of(root) == []
    for path in images[:3]:
        Image.fromarray(np.asarray(Image.open(path)) * 16).save(path)
    (warning,) = warnings_of(root)
    assert warning == (
        "bottle: 3 of 12 images with more than 8 bits have values outside [0,255], which are clipped, such as "
        f"{images[0]} with values from 0 to 4080. Set transform.input_range=[0,4095]."
    )
    assert warnings_of(root, input_range=[0, 4095]) == []


@pytest.mark.parametrize(
    ("scale", "shift", "setting"),
    [(2 / 255, -1, "[-1,1]"), (0.123 / 255, 0, "[0,0.13]"), (300, -500, "[-500,131071]")],
)
def test_suggested_range_fits_the_values(root: Path, scale: float, shift: float, setting: str) -> None:
    convert(root, "bottle", scale, np.float32, shift)
    (warning,) = warnings_of(root)
    assert warning.endswith(f"Set transform.input_range={setting}.")
    low, high = map(float, setting.strip("[]").split(","))
    assert warnings_of(root, input_range=[low, high]) == []


def test_floats_of_two_scales_in_one_category(root: Path) -> None:
    images = convert(root, "bottle", 1, np.float32)
    Image.fromarray(np.asarray(Image.open(images[4])) / 255).save(images[4])
    (warning,) = warnings_of(root)
    assert warning == (
        f"bottle: 1 of 12 images have floats of at most 1, such as {images[4]}, and become brighter than the others, "
        "whose largest value is 255. Set transform.input_range=[0,255]."
    )


def test_values_that_are_no_numbers_and_unreadable_files_are_skipped(root: Path) -> None:
    images = convert(root, "bottle", 1 / 255, np.float32)
    values = np.asarray(Image.open(images[0])).copy()
    values[0], values[1] = np.nan, np.inf
    Image.fromarray(values).save(images[0])
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(images[1])
    assert warnings_of(root) == []
    images[2].write_bytes(images[2].read_bytes()[:300])
    assert [finding.severity for finding in check_dataset(root)[0]] == ["error"]


def masks_of(root: Path) -> list[Path]:
    return sorted((root / "bottle/ground_truth").glob("*/*"))


def rewrite(path: Path, marked: NDArray[np.bool_], quality: int | None = None) -> None:
    """Write a mask as PNG, as if it came from a JPEG file of a quality if there is one."""
    mask = Image.fromarray(marked.astype(np.uint8) * 255)
    if quality:
        file = io.BytesIO()
        mask.save(file, "jpeg", quality=quality)
        mask = Image.open(file)
    mask.save(path)


def test_masks_with_gray_levels_are_reported_once_per_category(root: Path) -> None:
    masks = masks_of(root)
    for path in masks[:2]:
        rewrite(path, np.asarray(Image.open(path)) > 0, quality=60)
    (warning,) = warnings_of(root)
    assert warning == (
        "bottle: 2 of 3 masks have many gray levels, as after JPEG compression or resizing, such as "
        f"{masks[0]}. Values above half of the maximum mark the defect. Save masks as PNG with two values."
    )


def test_inverted_masks(root: Path) -> None:
    masks = masks_of(root)
    for path in masks:
        rewrite(path, np.asarray(Image.open(path)) == 0)
    (warning,) = warnings_of(root)
    assert warning == (
        f"bottle: 3 of 3 masks mark more than half of their image, such as {masks[0]}. If they are inverted, exchange "
        "black and white: nonzero pixels mark the defect."
    )
