"""Tests of overlays of anomaly maps on images."""

import numpy as np
import torch
from PIL import Image

from helpers.trees import fake_image
from moleflow.data.transforms import ImageTransform
from moleflow.inference.overlay import overlay, transformed_image


def test_transformed_image_is_the_resized_image() -> None:
    image, _ = fake_image("bottle", "a", (48, 72))
    pixels = transformed_image(image, ImageTransform((24, 36), "squash"))
    assert pixels.shape == (24, 36, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image.resize((36, 24), Image.Resampling.LANCZOS)))


def test_overlay_is_transparent_up_to_the_low_value_and_strongest_from_the_high_value() -> None:
    image, _ = fake_image("bottle", "a", (32, 32))
    transform = ImageTransform(32, "squash")
    anomaly_map = torch.zeros(32, 32)
    anomaly_map[:, 16:] = 5.0
    blended = np.asarray(overlay(image, anomaly_map, transform, low=1.0, high=3.0)).astype(float)
    pixels = transformed_image(image, transform).astype(float)
    np.testing.assert_array_equal(blended[:, :15], pixels[:, :15])
    brightest = np.array([252, 255, 164])  # the last color of inferno
    np.testing.assert_allclose(blended[:, 17:], 0.25 * pixels[:, 17:] + 0.75 * brightest, atol=1.5)


def test_small_anomaly_map_is_resized() -> None:
    image, _ = fake_image("bottle", "a", (32, 48))
    assert overlay(image, torch.rand(4, 6), ImageTransform((32, 48), "squash"), 0.0, 0.0).size == (48, 32)
