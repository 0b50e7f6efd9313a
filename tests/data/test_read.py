import io
import random

import numpy as np
import pytest
from PIL import Image

from moleflow.data.read import picture_size, pictures_in, read_mask, read_picture
from moleflow.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def saved(folder, picture, name="a.png", **options):
    picture.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK"])
def test_any_mode_becomes_rgb(tmp_path, mode):
    source = Image.fromarray(RGB).convert(mode)
    path = saved(tmp_path, source, "a.tif")
    picture = read_picture(path)
    assert picture.mode == "RGB"
    expected = source.convert("RGBA" if mode == "P" else "RGB").convert("RGB")
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_transparency_is_dropped_and_palettes_with_transparency_do_not_warn(tmp_path):
    clear = Image.fromarray(np.dstack([RGB, np.zeros_like(GREY)]), "RGBA")
    np.testing.assert_array_equal(np.asarray(read_picture(saved(tmp_path, clear))), RGB)
    palette = Image.fromarray(RGB).quantize(8)
    path = saved(tmp_path, palette, "p.png", transparency=bytes(range(8)))
    np.testing.assert_array_equal(np.asarray(read_picture(path)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_a_constant(tmp_path, suffix):
    picture = read_picture(saved(tmp_path, Image.fromarray(GREY.astype(np.uint16) * 257), f"a.{suffix}"))
    np.testing.assert_array_equal(np.asarray(picture), np.repeat(GREY[..., None], 3, axis=-1))
    dark = read_picture(saved(tmp_path, Image.fromarray(np.full((2, 2), 514, np.uint16)), f"b.{suffix}"))
    assert np.asarray(dark).max() == 2


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_floats_of_either_range(tmp_path, scale):
    picture = read_picture(saved(tmp_path, Image.fromarray((GREY * scale).astype(np.float32)), "a.tiff"))
    np.testing.assert_array_equal(np.asarray(picture)[..., 1], GREY)


def test_a_picture_taken_sideways_is_turned_and_its_size_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(RGB), exif=exif)
    assert read_picture(path).size == picture_size(path) == (5, 7)
    np.testing.assert_array_equal(np.asarray(read_picture(path)), np.rot90(RGB, -1))


@pytest.mark.parametrize("suffix", ["png", "JPG", "jpeg", "BMP", "tif", "TIFF"])
def test_truncated_anywhere_is_told_with_its_path(tmp_path, suffix):
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = saved(tmp_path, Image.fromarray(noise), f"whole.{suffix}")
    data = whole.read_bytes()
    for length in random.Random(0).sample(range(len(data) - 64), 12):
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=rf"cut\.{suffix} cannot be read.*Replace"):
            read_picture(path)


def test_no_picture_and_no_file_are_told(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for read in (read_picture, read_mask, picture_size):
        with pytest.raises(UserError, match=r"text\.png cannot be read"):
            read(tmp_path / "text.png")
        with pytest.raises(UserError, match=r"gone\.png does not exist"):
            read(tmp_path / "gone.png")


CODES = np.array([[0, 1, 0], [2, 0, 3]], np.uint8)


def _palette(colours):
    mask = Image.new("P", (3, 2))
    mask.putdata(CODES.ravel().tolist())
    mask.putpalette([value for colour in colours for value in colour])
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(CODES),
        Image.fromarray(CODES.astype(np.uint16) * 256),
        Image.fromarray(CODES.astype(np.int32)),
        Image.fromarray(np.dstack([CODES * 0, CODES * 0, CODES])),
        Image.fromarray(np.dstack([CODES, CODES, CODES, np.full_like(CODES, 255)])),
        Image.fromarray(np.dstack([np.full_like(CODES, 255)] * 3 + [CODES])),  # marked by what is visible
        Image.fromarray(CODES > 0),
        _palette([(0, 0, 0), (0, 0, 1), (9, 9, 9), (128, 0, 0)]),
        _palette([(0, 0, 0)] * 4),  # no colours: the index counts
    ],
    ids=["codes", "16 bit", "32 bit", "blue", "rgba", "alpha", "1 bit", "palette", "bare palette"],
)
def test_any_non_zero_pixel_of_a_mask_counts(tmp_path, mask):
    np.testing.assert_array_equal(np.asarray(read_mask(saved(tmp_path, mask, "a.tif"))), (CODES > 0) * 255)


def test_a_palette_that_an_optimiser_turned_round_is_read_by_colour(tmp_path):
    mask = Image.new("P", (3, 1))
    mask.putdata([0, 1, 0])
    mask.putpalette([255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(np.asarray(read_mask(saved(tmp_path, mask))), [[255, 0, 255]])


def test_only_pictures_are_listed_in_order_whatever_the_case(tmp_path):
    for name in ("b.PNG", "a.jpeg", "c.Tif", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(io.BytesIO().getvalue())
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in pictures_in(tmp_path)] == ["a.jpeg", "b.PNG", "c.Tif"]
    assert pictures_in(tmp_path / "nowhere") == []
