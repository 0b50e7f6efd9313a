"""Decoding of images and masks of all modes, and errors of damaged files."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moleflow.data.image_io import ImageError, image_size, images_in, read_image, read_mask

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RGB[..., 0]


def save(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK"])
def test_all_modes_are_converted_to_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(RGB).convert(mode)
    path = save(tmp_path, source, "a.tif")
    image = read_image(path)
    assert image.mode == "RGB"
    expected = source.convert("RGBA" if mode == "P" else "RGB").convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_transparency_is_dropped_without_warnings(tmp_path: Path) -> None:
    transparent = Image.fromarray(np.dstack([RGB, np.zeros_like(GRAY)]), "RGBA")
    np.testing.assert_array_equal(np.asarray(read_image(save(tmp_path, transparent))), RGB)
    palette = Image.fromarray(RGB).quantize(8)
    path = save(tmp_path, palette, "p.png", transparency=bytes(range(8)))
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_values_are_scaled_by_a_constant(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path, Image.fromarray(GRAY.astype(np.uint16) * 257), f"a.{suffix}"))
    np.testing.assert_array_equal(np.asarray(image), np.repeat(GRAY[..., None], 3, axis=-1))
    dark = read_image(save(tmp_path, Image.fromarray(np.full((2, 2), 514, np.uint16)), f"b.{suffix}"))
    assert np.asarray(dark).max() == 2


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_floats_of_both_ranges(tmp_path: Path, scale: float) -> None:
    image = read_image(save(tmp_path, Image.fromarray((GRAY * scale).astype(np.float32)), "a.tiff"))
    np.testing.assert_array_equal(np.asarray(image)[..., 1], GRAY)


def test_exif_orientation_is_applied_to_image_and_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, Image.fromarray(RGB), exif=exif)
    assert read_image(path).size == image_size(path) == (5, 7)
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.rot90(RGB, -1))


@pytest.mark.parametrize("suffix", ["png", "JPG", "jpeg", "BMP", "tif", "TIFF"])
def test_file_truncated_at_any_length_raises_with_its_path(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = save(tmp_path, Image.fromarray(noise), f"whole.{suffix}")
    data = whole.read_bytes()
    for length in random.Random(0).sample(range(len(data) - 64), 12):
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match=rf"cut\.{suffix} cannot be read.*Replace"):
            read_image(path)


def test_other_file_and_missing_file_raise(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for read in (read_image, read_mask, image_size):
        with pytest.raises(ImageError, match=r"text\.png cannot be read"):
            read(tmp_path / "text.png")
        with pytest.raises(ImageError, match=r"gone\.png does not exist"):
            read(tmp_path / "gone.png")


CODES = np.array([[0, 1, 0], [2, 0, 3]], np.uint8)


def _palette(colors: list[tuple[int, int, int]]) -> Image.Image:
    mask = Image.new("P", (3, 2))
    mask.putdata(CODES.ravel().tolist())
    mask.putpalette([value for color in colors for value in color])
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(CODES),
        Image.fromarray(CODES.astype(np.uint16) * 256),
        Image.fromarray(CODES.astype(np.int32)),
        Image.fromarray(np.dstack([CODES * 0, CODES * 0, CODES])),
        Image.fromarray(np.dstack([CODES, CODES, CODES, np.full_like(CODES, 255)])),
        Image.fromarray(np.dstack([np.full_like(CODES, 255)] * 3 + [CODES])),  # only visible pixels count
        Image.fromarray(CODES > 0),
        _palette([(0, 0, 0), (0, 0, 1), (9, 9, 9), (128, 0, 0)]),
        _palette([(0, 0, 0)] * 4),  # a palette without colors: the index counts
    ],
    ids=["codes", "16 bit", "32 bit", "blue", "rgba", "alpha", "1 bit", "palette", "black palette"],
)
def test_any_nonzero_pixel_of_a_mask_counts(tmp_path: Path, mask: Image.Image) -> None:
    np.testing.assert_array_equal(np.asarray(read_mask(save(tmp_path, mask, "a.tif"))), (CODES > 0) * 255)


def test_palette_mask_is_read_by_color_not_by_index(tmp_path: Path) -> None:
    mask = Image.new("P", (3, 1))
    mask.putdata([0, 1, 0])
    mask.putpalette([255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(np.asarray(read_mask(save(tmp_path, mask))), [[255, 0, 255]])


def test_only_images_of_any_suffix_case_are_listed_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.Tif", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in images_in(tmp_path)] == ["a.jpeg", "b.PNG", "c.Tif"]
    assert images_in(tmp_path / "nowhere") == []
