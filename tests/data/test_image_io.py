"""Decoding of images and masks of all modes, and errors of damaged files."""

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from moleflow.data.image_io import (
    MAX_MASK_CODES,
    MAX_PIXELS,
    ImageError,
    binarize_mask,
    image_size,
    images_in,
    read_deep_values,
    read_image,
    read_mask,
)
from moleflow.metrics.aupro import per_region_overlap

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


def color_png(values: NDArray[np.uint16]) -> bytes:
    """Return a PNG file with 16 bits per channel, which Pillow cannot write, of values (H, W, C)."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return _png((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def color_tiff(values: NDArray[np.uint16], order: str, compress: bool, tags: dict[int, int] | None = None) -> bytes:
    """Return a TIFF file with 16 bits per channel of values (H, W, C); order is ``<`` or ``>``.

    Further tags are added to those of RGB without opacity, or replace them.
    """
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    pixels = zlib.compress(pixels) if compress else pixels
    pixels += b"\0" * (len(pixels) % 2)
    start = 8 + len(pixels) + 2 * channels  # the bits of the channels follow the pixels
    entries = {
        256: width,
        257: height,
        258: 8 + len(pixels),
        259: 8 if compress else 1,
        262: 2,
        273: 8,
        277: channels,
        278: height,
        279: len(pixels),
        **(tags or {}),
    }
    directory = struct.pack(f"{order}H", len(entries))
    for tag, value in sorted(entries.items()):
        directory += struct.pack(f"{order}HHII", tag, *((3, channels) if tag == 258 else (4, 1)), value)
    magic = b"II" if order == "<" else b"MM"
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    return magic + struct.pack(f"{order}HI", 42, start) + pixels + bits + directory + bytes(4)


TWELVE_BITS = np.random.default_rng(2).integers(0, 4096, (5, 7), dtype=np.uint16)
TWELVE_BIT_COLORS = np.random.default_rng(3).integers(0, 4096, (5, 7, 3), dtype=np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_input_range_uses_all_gray_levels_of_a_12_bit_camera(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path, Image.fromarray(TWELVE_BITS), f"a.{suffix}")
    assert np.asarray(read_image(path)).max() <= 16
    expected = (TWELVE_BITS / 4095 * 255).round().astype(np.uint8)
    image = read_image(path, (0, 4095))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.repeat(expected[..., None], 3, axis=-1))
    shifted = np.asarray(read_image(path, (1000, 2000)))[..., 0]  # values outside are clipped
    assert (shifted[TWELVE_BITS <= 1000] == 0).all()
    assert (shifted[TWELVE_BITS >= 2000] == 255).all()


def test_input_range_of_floats(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(TWELVE_BITS.astype(np.float32)), "a.tiff")
    assert (np.asarray(read_image(path))[TWELVE_BITS > 255] == 255).all()
    expected = (TWELVE_BITS / 4095 * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(read_image(path, (0, 4095)))[..., 0], expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK"])
def test_input_range_does_not_affect_images_of_8_bits(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path, Image.fromarray(RGB).convert(mode), "a.tif")
    assert read_deep_values(path) is None
    assert read_image(path, (0, 4095)).tobytes() == read_image(path).tobytes()


@pytest.mark.parametrize("kind", ["png", "png with alpha", "tif <", "tif >", "compressed tif <", "compressed tif >"])
def test_colors_of_16_bits_are_read_completely(tmp_path: Path, kind: str) -> None:
    """Pillow alone keeps the high bytes of such colors."""
    path = tmp_path / "a.image"
    if kind.startswith("png"):
        alpha = np.full((*TWELVE_BITS.shape, 1), 65535, np.uint16)
        values = np.concatenate([TWELVE_BIT_COLORS, alpha], axis=-1) if "alpha" in kind else TWELVE_BIT_COLORS
        path.write_bytes(color_png(values))
    else:
        path.write_bytes(color_tiff(TWELVE_BIT_COLORS, kind[-1], kind.startswith("compressed")))
    np.testing.assert_array_equal(read_deep_values(path), TWELVE_BIT_COLORS)
    np.testing.assert_array_equal(np.asarray(read_image(path)), TWELVE_BIT_COLORS >> 8)
    expected = (TWELVE_BIT_COLORS / 4095 * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(read_image(path, (0, 4095))), expected)


def test_gray_of_16_bits_with_opacity_is_read_completely(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(color_png(np.dstack([TWELVE_BITS, 65535 - TWELVE_BITS])))
    np.testing.assert_array_equal(read_deep_values(path), TWELVE_BITS)
    np.testing.assert_array_equal(np.asarray(read_image(path))[..., 0], TWELVE_BITS >> 8)
    expected = (TWELVE_BITS / 4095 * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(read_image(path, (0, 4095))), np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize("order", "<>")
def test_cmyk_of_16_bits_is_converted_to_rgb(tmp_path: Path, order: str) -> None:
    inks = np.random.default_rng(5).integers(0, 65536, (5, 7, 4), dtype=np.uint16)
    path = tmp_path / "a.tif"
    path.write_bytes(color_tiff(inks, order, False, {262: 5}))
    light = 1 - inks / 65535
    expected = light[..., :3] * light[..., 3:]
    values = read_deep_values(path)
    assert values is not None
    np.testing.assert_allclose(values / 65535, expected, atol=1e-5)
    for image in (read_image(path), read_image(path, (0, 65535))):
        np.testing.assert_allclose(np.asarray(image) / 255, expected, atol=0.012)


@pytest.mark.parametrize("order", "<>")
def test_colors_of_16_bits_multiplied_by_their_opacity(tmp_path: Path, order: str) -> None:
    opacity = np.random.default_rng(6).integers(6000, 65536, (5, 7, 1), dtype=np.uint16)
    stored = np.concatenate([(TWELVE_BIT_COLORS * (opacity / 65535)).round().astype(np.uint16), opacity], axis=-1)
    path = tmp_path / "a.tif"
    path.write_bytes(color_tiff(stored, order, False, {338: 1}))
    values = read_deep_values(path)
    assert values is not None
    np.testing.assert_allclose(values.astype(int), TWELVE_BIT_COLORS, atol=6)


@pytest.mark.parametrize("name", ["a.webp", "a.jp2", "a.bmp", "565.bmp"])
def test_images_of_8_bits_in_other_formats_are_not_deep(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "565.bmp":  # Pillow calls the layout of its bytes BGR;16
        masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
        header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
        path.write_bytes(b"BM" + struct.pack("<IHHI", 74, 0, 0, 66) + header + masks + struct.pack("<4H", *range(4)))
    else:
        Image.fromarray(RGB).save(path)
    assert read_deep_values(path) is None
    assert read_image(path, (0, 4095)).tobytes() == read_image(path).tobytes()


def test_deep_values_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, Image.fromarray(TWELVE_BITS), exif=exif)
    np.testing.assert_array_equal(read_deep_values(path), np.rot90(TWELVE_BITS, -1))
    assert read_image(path).size == read_image(path, (0, 4095)).size == image_size(path) == (5, 7)


def test_truncated_image_of_16_bits_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(color_png(TWELVE_BIT_COLORS)[:120])
    for read in (read_deep_values, lambda path: read_image(path, (0, 4095))):
        with pytest.raises(ImageError, match=r"a\.png cannot be read"):
            read(path)


def test_orientation_of_a_mask_is_that_of_its_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    mask = Image.fromarray((GRAY > 127).astype(np.uint8) * 255)
    path = save(tmp_path, mask, exif=exif)
    assert read_mask(path).size == image_size(path) == (5, 7)
    np.testing.assert_array_equal(np.asarray(read_mask(path)), np.rot90(np.asarray(mask)))


def test_image_of_a_line_scan_camera_is_read(tmp_path: Path) -> None:
    """Pillow itself raises above 179 million pixels."""
    path = save(tmp_path, Image.new("1", (2000, 91_000), 1))
    assert read_mask(path).size == image_size(path) == (2000, 91_000)


@pytest.mark.parametrize("side", [40_000, 60_000])
def test_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(_png((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")))
    assert side**2 > MAX_PIXELS
    for read in (read_image, read_mask, image_size, read_deep_values):
        with pytest.raises(ImageError, match=r"bomb\.png has more than 1,000,000,000 pixels by its header"):
            read(path)


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


def disk(side: int = 200, scale: int = 1) -> NDArray[np.bool_]:
    y, x = np.mgrid[: side * scale, : side * scale] + 0.5
    return np.hypot(y / scale - 90, x / scale - 110) < 40


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["jpeg", "bicubic"])
def test_area_of_a_mask_with_gray_levels(kind: str, mode: str) -> None:
    mask = Image.fromarray(disk().astype(np.uint8) * 255)
    if kind == "jpeg":
        file = io.BytesIO()
        mask.save(file, "jpeg", quality=60)
        mask = Image.open(file)
        expected = disk()
    else:
        mask = mask.resize((400, 400), Image.Resampling.BICUBIC)
        expected = disk(scale=2)
    nonzero = np.asarray(mask) != 0
    binary = binarize_mask(mask.convert(mode))
    marked = np.asarray(binary) > 0
    assert binary.info["gray_levels"] > MAX_MASK_CODES
    assert marked.sum() == pytest.approx(expected.sum(), rel=0.02)
    assert (marked & expected).sum() / (marked | expected).sum() > 0.97
    assert nonzero.sum() > 1.03 * expected.sum()  # as if any nonzero value were a defect


def test_jpeg_mask_has_the_same_pro_as_its_original(tmp_path: Path) -> None:
    expected = torch.from_numpy(disk())[None]
    path = save(tmp_path, Image.fromarray(disk().astype(np.uint8) * 255), "a.jpg", quality=60)
    mask = torch.from_numpy(np.array(read_mask(path)) > 0)[None]
    anomaly_maps = expected.float() + 0.6 * torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    assert per_region_overlap(anomaly_maps, mask) == pytest.approx(
        per_region_overlap(anomaly_maps, expected), abs=0.005
    )


@pytest.mark.parametrize("mode", ["L", "I;16", "I", "F"])
@pytest.mark.parametrize(("count", "is_gray"), [(1, False), (MAX_MASK_CODES, False), (MAX_MASK_CODES + 1, True)])
def test_number_of_values_decides_between_codes_and_gray_levels(mode: str, count: int, is_gray: bool) -> None:
    values = np.tile(np.arange(count + 1), (4, 1)) * (255 // count)
    mask = Image.fromarray(values.astype({"L": np.uint8, "I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    assert mask.mode == mode
    binary = binarize_mask(mask)
    assert ("gray_levels" in binary.info) == is_gray
    np.testing.assert_array_equal(np.asarray(binary) > 0, values > (values.max() / 2 if is_gray else 0))


def test_numbers_of_instances_are_no_gray_levels() -> None:
    values = np.arange(40, dtype=np.uint8).reshape(4, 10)
    binary = binarize_mask(Image.fromarray(values))
    np.testing.assert_array_equal(np.asarray(binary) > 0, values > 0)
    assert "gray_levels" not in binary.info


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
