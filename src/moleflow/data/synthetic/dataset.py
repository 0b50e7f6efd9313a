"""Writing the synthetic data set: images and masks in the folder layout of MVTec AD."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from moleflow.data.samples import GOOD
from moleflow.data.synthetic.defects import DEFECTS
from moleflow.data.synthetic.products import PRODUCTS
from moleflow.data.synthetic.rendering import Field, Light, render
from moleflow.utils.errors import UserError, check_range
from moleflow.utils.random import generator

CATEGORIES = tuple(PRODUCTS)
"""The categories in the order of the continual sequence."""

MARKER = "synthetic.json"
"""The file with the settings at the root of a complete data set."""

_VERSION = 1  # increase when the same settings draw other images
_VISIBLE_CHANGE = 0.06  # smallest difference in some channel, of a range of 1, at which a pixel counts as defective
_MIN_AREA = 2e-4  # smallest connected part of a mask, as a share of the image
_CAMERA_NOISE = 0.012


def write_synthetic_dataset(
    root: Path, seed: int = 0, size: int = 256, train: int = 24, test_good: int = 8, test_defect: int = 12
) -> None:
    """Write the data set, unless a complete one with these settings is there.

    The folder is written under a temporary name beside the root and then renamed, so that the root is complete or
    missing. `MARKER` in it has the settings.

    Args:
        root: The folder to write.
        seed: Seed of the images.
        size: Side of an image in pixels, at least 32.
        train: Training images per category.
        test_good: Normal test images per category.
        test_defect: Test images with a defect per category, in equal numbers of each defect.

    Raises:
        UserError: If the root has other files, or a setting is too small.
    """
    root = Path(root).absolute()
    settings = {
        "version": _VERSION,
        "seed": seed,
        "size": size,
        "train": train,
        "test_good": test_good,
        "test_defect": test_defect,
    }
    for name, least in (("size", 32), ("train", 1), ("test_good", 1), ("test_defect", 1)):
        check_range(f"dataset.{name}", settings[name], least)
    if _is_complete(root, settings):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        for category in CATEGORIES:
            _write_category(temporary / category, category, seed, size, train, test_good, test_defect)
        (temporary / MARKER).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        try:
            os.replace(temporary, root)
        except OSError:
            # Another process may have written the same data set first.
            if not _is_complete(root, settings):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def draw_image(
    category: str, defect: str, number: int, *, split: str, seed: int, size: int
) -> tuple[Image.Image, Image.Image | None]:
    """Draw one image and its mask.

    The scene is rendered with and without the defect, and the mask marks the pixels that visibly differ, not the area
    in which the defect was drawn. Camera noise is added afterwards and is not in the mask.

    Args:
        category: One of `CATEGORIES`.
        defect: ``"good"`` or a defect of the category, see `DEFECTS`.
        number: The image's number within category, split and defect.
        split: ``"train"`` or ``"test"``.
        seed: Seed of the data set.
        size: Side of the image in pixels.

    Returns:
        The RGB image, and its mask with 255 on the defect; None for a normal image.
    """

    def rng(purpose: str, *place: int) -> np.random.Generator:
        source = generator(seed, f"demo {purpose}", category, split, defect, number, *place)
        return np.random.default_rng(int(torch.randint(2**62, (), generator=source)))

    scene, light = PRODUCTS[category](rng("scene"), size), Light.draw(rng("light"))
    view, mask = render(scene, light), None
    attempt = 0
    while defect != GOOD and mask is None:
        damaged = render(DEFECTS[category][defect](scene, rng("defect", attempt)), light)
        change = _defect_mask(np.abs(damaged - view).max(axis=-1))
        if change.mean() > 25 * _MIN_AREA:  # else the defect is hardly visible at this place: draw another one
            view, mask = damaged, change
        attempt += 1
    view = view + rng("camera").normal(0, _CAMERA_NOISE, view.shape)
    image = Image.fromarray((view * 255).round().clip(0, 255).astype(np.uint8))
    return image, None if mask is None else Image.fromarray(mask.astype(np.uint8) * 255)


def _defect_mask(change: Field) -> NDArray[np.bool_]:
    """Return the pixels (S, S) of a visible change, with small gaps closed and small parts removed."""
    size = change.shape[0]
    visible = np.pad(change > _VISIBLE_CHANGE, 4)
    closed = ndimage.binary_closing(visible, iterations=max(1, size // 128))[4:-4, 4:-4]
    parts, count = ndimage.label(closed, structure=np.ones((3, 3)))
    areas = ndimage.sum_labels(closed, parts, np.arange(count + 1))
    mask: NDArray[np.bool_] = (areas >= _MIN_AREA * size * size)[parts] & closed
    return mask


def _write_category(
    folder: Path, category: str, seed: int, size: int, train: int, test_good: int, test_defect: int
) -> None:
    defects = list(DEFECTS[category])
    plan = [("train", GOOD, number) for number in range(train)]
    plan += [("test", GOOD, number) for number in range(test_good)]
    plan += [("test", defects[number % len(defects)], number // len(defects)) for number in range(test_defect)]
    for split, defect, number in plan:
        image, mask = draw_image(category, defect, number, split=split, seed=seed, size=size)
        _save(image, folder / split / defect / f"{number:03d}.png")
        if mask is not None:
            _save(mask, folder / "ground_truth" / defect / f"{number:03d}_mask.png")


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=1)  # noise hardly compresses, so that higher levels only take longer


def _is_complete(root: Path, settings: dict[str, int]) -> bool:
    """Whether the root has the data set of these settings; raise if it has anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    present: Any
    try:
        present = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        present = None
    if present != settings:
        content = f"a synthetic data set with other settings ({present})" if present else "other files"
        raise UserError(f"dataset.root={root} has {content}. Remove the folder, or set dataset.root to another folder.")
    return True
