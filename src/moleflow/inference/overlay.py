"""Overlays of anomaly maps on images."""

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from moleflow.data.transforms import ImageTransform


def transformed_image(image: Image.Image, transform: ImageTransform) -> NDArray[np.uint8]:
    """Return an image after the transform, without its normalization: (H, W, 3) uint8."""
    mean, std = (np.asarray(values).reshape(3, 1, 1) for values in (transform.mean, transform.std))
    pixels = (transform(image).numpy() * std + mean).transpose(1, 2, 0)
    rounded: NDArray[np.uint8] = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return rounded


def overlay(image: Image.Image, anomaly_map: Tensor, transform: ImageTransform, low: float, high: float) -> Image.Image:
    """Return the transformed image, blended with the colors of its anomaly map.

    Args:
        image: The image.
        anomaly_map: (H, W) anomaly map.
        transform: The detector's transform.
        low: Map value up to which the overlay is transparent.
        high: Map value from which the overlay has its full opacity of 0.75.
    """
    base = transformed_image(image, transform)
    resized = Image.fromarray(anomaly_map.numpy()).resize((base.shape[1], base.shape[0]), Image.Resampling.BILINEAR)
    strength = ((np.asarray(resized) - low) / max(high - low, 1e-12)).clip(0, 1)
    colors = mpl.colormaps["inferno"](strength)[..., :3] * 255
    weight = (0.75 * strength)[..., None]
    return Image.fromarray((base * (1 - weight) + colors * weight).round().astype(np.uint8))
