"""Tiny fake data sets in the layouts of the real ones, for tests of the whole program.

Each category has its own colours and stripes, so that a router can tell them apart; each defect is a disc of a colour
that the category does not have, so that a detector can find it.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from moleflow.randomness import generator

DEFECTS = ("dent", "spot")
"""The defect folders of the MVTec tree; pictures are dealt to them in turn."""


def fake_picture(
    category: str, name: str, size: tuple[int, int] = (64, 64), defect: bool = False
) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Draw one picture and the pixels of its defect.

    Args:
        category: Decides colours and stripes.
        name: Decides shift, noise and place of the defect; the same name gives the same picture.
        size: (height, width) in pixels.
        defect: Whether to put a defect in.
    """
    look = _numbers("look", category)
    case = _numbers("case", category, name)
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float64)
    base, other = look.uniform(60, 200, 3), look.uniform(60, 200, 3)
    angle, period = look.uniform(0, np.pi), look.uniform(6, 14)
    phase = 2 * np.pi * ((x * np.cos(angle) + y * np.sin(angle)) / period + case.uniform())
    pixels = base + (other - base) * (0.5 + 0.5 * np.sin(phase))[..., None] + case.normal(0, 4, (height, width, 3))
    radius = min(size) / 6
    centre = case.uniform(radius, height - radius), case.uniform(radius, width - radius)
    marked = (np.hypot(y - centre[0], x - centre[1]) < radius) & defect
    pixels[marked] = (250, 240, 10) if base.mean() < 130 else (10, 5, 120)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), marked


def write_mvtec_tree(
    root: Path,
    categories: Sequence[str] = ("bottle", "screw"),
    size: tuple[int, int] = (64, 64),
    train: int = 6,
    good: int = 3,
    defect: int = 3,
    masks: bool = True,
) -> Path:
    """Write a tree as MVTec AD's and return its root.

    Args:
        root: Where the categories go.
        categories: Which to write.
        size: (height, width) in pixels.
        train: Training pictures a category.
        good: Normal test pictures a category.
        defect: Test pictures with a defect a category, dealt to `DEFECTS` in turn.
        masks: Whether to write masks.
    """
    plan = [("train", "good", number) for number in range(train)]
    plan += [("test", "good", number) for number in range(good)]
    plan += [("test", DEFECTS[number % len(DEFECTS)], number // len(DEFECTS)) for number in range(defect)]
    for category in categories:
        for split, kind, number in plan:
            picture, marked = fake_picture(category, f"{split}/{kind}/{number}", size, kind != "good")
            _save(picture, root / category / split / kind / f"{number:03d}.png")
            if kind != "good" and masks:
                mask = Image.fromarray(marked.astype(np.uint8) * 255)
                _save(mask, root / category / "ground_truth" / kind / f"{number:03d}_mask.png")
    return root


def write_visa_tree(
    root: Path,
    categories: Sequence[str] = ("candle", "pcb1"),
    size: tuple[int, int] = (48, 72),
    train: int = 6,
    good: int = 3,
    defect: int = 3,
) -> Path:
    """Write a tree as VisA is released (csv, JPG pictures, masks of codes 1 to 3) and return its root.

    Args:
        root: Where ``split_csv`` and the objects go.
        categories: Which to write.
        size: (height, width) in pixels; not square, as in the release.
        train: Training pictures a category.
        good: Normal test pictures a category.
        defect: Test pictures with a defect a category.
    """
    rows = [("object", "split", "label", "image", "mask")]
    for category in categories:
        for number in range(train + good):
            path = f"{category}/Data/Images/Normal/{number:04d}.JPG"
            picture, _ = fake_picture(category, path, size)
            _save(picture, root / path)
            rows.append((category, "train" if number < train else "test", "normal", path, ""))
        for number in range(defect):
            path, mask_path = (f"{category}/Data/{kind}/Anomaly/{number:03d}" for kind in ("Images", "Masks"))
            picture, marked = fake_picture(category, path, size, defect=True)
            _save(picture, root / f"{path}.JPG")
            _save(Image.fromarray(marked.astype(np.uint8) * np.uint8(1 + number % 3)), root / f"{mask_path}.png")
            rows.append((category, "test", "anomaly", f"{path}.JPG", f"{mask_path}.png"))
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root


def _numbers(purpose: str, *place: str) -> np.random.Generator:
    named = generator(0, f"fake {purpose}", *place)
    return np.random.default_rng(int(torch.randint(2**62, (), generator=named)))


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
