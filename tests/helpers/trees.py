"""Tiny artificial data sets in the layouts of the public ones, for tests of the whole program.

Each category has its own colors and stripes, so that a router can distinguish them. Each defect is a disc of a color
that the category does not have, so that a detector can find it.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from moleflow.utils.random import generator

DEFECTS = ("dent", "spot")
"""The defect folders in the layout of MVTec AD; images alternate between them."""


def fake_image(
    category: str, name: str, size: tuple[int, int] = (64, 64), defect: bool = False
) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Draw one image and the pixels of its defect.

    Args:
        category: Determines colors and stripes.
        name: Determines shift, noise and position of the defect; the same name gives the same image.
        size: (height, width) in pixels.
        defect: Whether the image has a defect.

    Returns:
        The image, and its defect pixels (height, width).
    """
    category_rng = _rng("look", category)
    image_rng = _rng("case", category, name)
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float64)
    base, other = category_rng.uniform(60, 200, 3), category_rng.uniform(60, 200, 3)
    angle, period = category_rng.uniform(0, np.pi), category_rng.uniform(6, 14)
    phase = 2 * np.pi * ((x * np.cos(angle) + y * np.sin(angle)) / period + image_rng.uniform())
    stripes = (0.5 + 0.5 * np.sin(phase))[..., None]
    pixels = base + (other - base) * stripes + image_rng.normal(0, 4, (height, width, 3))
    radius = min(size) / 6
    center = image_rng.uniform(radius, height - radius), image_rng.uniform(radius, width - radius)
    mask = (np.hypot(y - center[0], x - center[1]) < radius) & defect
    pixels[mask] = (250, 240, 10) if base.mean() < 130 else (10, 5, 120)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


def write_mvtec_tree(
    root: Path,
    categories: Sequence[str] = ("bottle", "screw"),
    size: tuple[int, int] = (64, 64),
    train: int = 6,
    good: int = 3,
    defect: int = 3,
    masks: bool = True,
) -> Path:
    """Write a data set in the layout of MVTec AD and return its root.

    Args:
        root: The folder of the categories.
        categories: The categories to write.
        size: (height, width) in pixels.
        train: Training images per category.
        good: Normal test images per category.
        defect: Test images with a defect per category, alternating between `DEFECTS`.
        masks: Whether to write masks.
    """
    plan = [("train", "good", number) for number in range(train)]
    plan += [("test", "good", number) for number in range(good)]
    plan += [("test", DEFECTS[number % len(DEFECTS)], number // len(DEFECTS)) for number in range(defect)]
    for category in categories:
        for split, kind, number in plan:
            image, mask = fake_image(category, f"{split}/{kind}/{number}", size, kind != "good")
            save(image, root / category / split / kind / f"{number:03d}.png")
            if kind != "good" and masks:
                mask_image = Image.fromarray(mask.astype(np.uint8) * 255)
                save(mask_image, root / category / "ground_truth" / kind / f"{number:03d}_mask.png")
    return root


def write_visa_tree(
    root: Path,
    categories: Sequence[str] = ("candle", "pcb1"),
    size: tuple[int, int] = (48, 72),
    train: int = 6,
    good: int = 3,
    defect: int = 3,
) -> Path:
    """Write a data set in the layout of the VisA release (csv, JPG images, mask codes 1 to 3) and return its root.

    Args:
        root: The folder of ``split_csv`` and the categories.
        categories: The categories to write.
        size: (height, width) in pixels; not square, as in the release.
        train: Training images per category.
        good: Normal test images per category.
        defect: Test images with a defect per category.
    """
    rows = [("object", "split", "label", "image", "mask")]
    for category in categories:
        for number in range(train + good):
            path = f"{category}/Data/Images/Normal/{number:04d}.JPG"
            image, _ = fake_image(category, path, size)
            save(image, root / path)
            rows.append((category, "train" if number < train else "test", "normal", path, ""))
        for number in range(defect):
            path, mask_path = (f"{category}/Data/{kind}/Anomaly/{number:03d}" for kind in ("Images", "Masks"))
            image, mask = fake_image(category, path, size, defect=True)
            save(image, root / f"{path}.JPG")
            save(Image.fromarray(mask.astype(np.uint8) * np.uint8(1 + number % 3)), root / f"{mask_path}.png")
            rows.append((category, "test", "anomaly", f"{path}.JPG", f"{mask_path}.png"))
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root


def _rng(purpose: str, *place: str) -> np.random.Generator:
    source = generator(0, f"fake {purpose}", *place)
    return np.random.default_rng(int(torch.randint(2**62, (), generator=source)))


def save(image: Image.Image, path: Path) -> None:
    """Write an image, and its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
