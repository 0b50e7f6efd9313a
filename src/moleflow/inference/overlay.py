"""Draws an anomaly map over its picture."""

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from moleflow.data import PictureTransform


def shown_picture(picture: Image.Image, transform: PictureTransform) -> NDArray[np.uint8]:
    """Return a picture as the model saw it, (H, W, 3): resized and cut, in its own colours."""
    mean, std = (np.asarray(values).reshape(3, 1, 1) for values in (transform.mean, transform.std))
    pixels = (transform(picture).numpy() * std + mean).transpose(1, 2, 0)
    shown: NDArray[np.uint8] = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return shown


def overlay(
    picture: Image.Image, anomaly_map: Tensor, transform: PictureTransform, low: float, high: float
) -> Image.Image:
    """Return the picture with its map laid over it: clear at ``low`` and below, opaque colour at ``high`` and above.

    Args:
        picture: The picture.
        anomaly_map: (H, W).
        transform: How the model sees pictures.
        low: Value of the map that is quite normal.
        high: Value that is surely not.
    """
    seen = shown_picture(picture, transform)
    map_image = Image.fromarray(anomaly_map.numpy()).resize((seen.shape[1], seen.shape[0]), Image.Resampling.BILINEAR)
    strength = ((np.asarray(map_image) - low) / max(high - low, 1e-12)).clip(0, 1)
    colours = mpl.colormaps["inferno"](strength)[..., :3] * 255
    weight = (0.75 * strength)[..., None]
    return Image.fromarray((seen * (1 - weight) + colours * weight).round().astype(np.uint8))
