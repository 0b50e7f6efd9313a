"""Tests of overlays of anomaly maps on images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from helpers.trees import fake_image
from moleflow.data.transforms import ImageTransform
from moleflow.inference.overlay import Region, overlay, regions, run_lengths, transformed_image


def test_transformed_image_is_the_resized_image() -> None:
    image, _ = fake_image("bottle", "a", (48, 72))
    pixels = transformed_image(image, ImageTransform((24, 36), "squash"))
    assert pixels.shape == (24, 36, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image.resize((36, 24), Image.Resampling.LANCZOS)))


def test_overlay_is_transparent_on_normal_pixels_and_outlines_the_region_above_the_threshold() -> None:
    image, _ = fake_image("bottle", "a", (48, 32))
    normalized = np.zeros((48, 32), np.float32)
    normalized[10:20, 8:24] = 1.0
    normalized[:, 28:] = -np.inf  # cropped
    blended, pixels = np.asarray(overlay(image, normalized)).astype(float), np.asarray(image).astype(float)
    outside = normalized <= 0
    np.testing.assert_array_equal(blended[outside], pixels[outside])
    brightest = np.array([252, 255, 164])  # the last color of inferno
    inner = np.s_[11:19, 9:23]
    np.testing.assert_allclose(blended[inner], 0.25 * pixels[inner] + 0.75 * brightest, atol=1.5)
    assert (blended[10, 8:24] == (0, 230, 255)).all()


def test_overlay_of_an_image_without_defect_is_the_image() -> None:
    image, _ = fake_image("bottle", "a", (16, 16))
    np.testing.assert_array_equal(overlay(image, np.full((16, 16), 0.04, np.float32)), np.asarray(image))


def test_regions_are_connected_components_above_one_half() -> None:
    normalized = np.zeros((6, 8), np.float32)
    normalized[0, 0] = normalized[1, 1] = 0.6  # diagonal neighbors
    normalized[3:5, 4:8] = 0.9
    assert regions(normalized) == [
        Region((4, 3, 8, 5), 8, pytest.approx(0.9)), Region((0, 0, 2, 2), 2, pytest.approx(0.6))
    ]  # fmt: skip
    assert regions(np.zeros((3, 3), np.float32)) == []


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)))
def test_run_lengths_restore_the_mask(mask: NDArray[np.bool_]) -> None:
    counts = run_lengths(mask)
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    np.testing.assert_array_equal(values.reshape(mask.shape, order="F"), mask)
    assert all(count > 0 for count in counts[1:])
