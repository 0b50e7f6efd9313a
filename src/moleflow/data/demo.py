"""A small data set that needs no download: four generated products with defects and exact masks."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from moleflow.data.demo_defects import DEFECTS
from moleflow.data.demo_products import PRODUCTS
from moleflow.data.demo_scene import Field, Light, lit
from moleflow.data.sample import GOOD
from moleflow.errors import UserError
from moleflow.randomness import generator

CATEGORIES = tuple(PRODUCTS)
"""The demo's categories, in the order in which they arrive."""

MARKER = "demo.json"
"""The file at the root of a complete tree that holds its settings."""

_DRAWING = 1  # raise it when the same settings draw other pictures
_VISIBLE = 0.06  # a defect's pixel differs by so much in some channel, of a range of 1
_SPECK = 2e-4  # marked parts smaller than this share of the picture are left out
_CAMERA_NOISE = 0.012


def write_demo(
    root: Path, seed: int = 0, size: int = 256, train: int = 24, test_good: int = 8, test_defect: int = 12
) -> None:
    """Write the demo as an MVTec tree, unless it is there already.

    The tree is written beside the root under a temporary name and then renamed, so a root is whole or not there; it
    holds a small json file with the settings, by which it is known again.

    Args:
        root: Where it goes.
        seed: Which pictures are drawn.
        size: Pixels a side.
        train: Training pictures a category.
        test_good: Normal test pictures a category.
        test_defect: Test pictures with a defect a category, evenly over its kinds of defect.

    Raises:
        UserError: If something else lies at the root, or a number is too small.
    """
    root = Path(root).absolute()
    settings = {
        "drawing": _DRAWING,
        "seed": seed,
        "size": size,
        "train": train,
        "test_good": test_good,
        "test_defect": test_defect,
    }
    if size < 32 or min(train, test_good, test_defect) < 1:
        raise UserError(f"The demo cannot be drawn with {settings}: size has to be 32 or more, all counts 1 or more.")
    if _is_there(root, settings):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        for category in CATEGORIES:
            _write_category(whole / category, category, seed, size, train, test_good, test_defect)
        (whole / MARKER).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        whole.chmod(0o755)  # mkdtemp's folders are for the owner alone
        try:
            os.replace(whole, root)
        except OSError:
            # Another process was faster; anything else there is the user's.
            if not _is_there(root, settings):
                raise
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def draw(
    category: str, defect: str, number: int, *, split: str, seed: int, size: int
) -> tuple[Image.Image, Image.Image | None]:
    """Draw one picture and its mask.

    The mask is not what the defect was meant to cover but what it changed: the same scene is lit with and without it,
    and the pixels that differ visibly are marked. Camera noise comes afterwards and is in no mask.

    Args:
        category: One of `CATEGORIES`.
        defect: ``"good"`` or a kind of defect of the category.
        number: The picture's number within category, split and defect.
        split: ``"train"`` or ``"test"``.
        seed: The demo's seed.
        size: Pixels a side.
    """

    def rng(purpose: str, *place: int) -> np.random.Generator:
        named = generator(seed, f"demo {purpose}", category, split, defect, number, *place)
        return np.random.default_rng(int(torch.randint(2**62, (), generator=named)))

    scene, light = PRODUCTS[category](rng("scene"), size), Light.draw(rng("light"))
    view, marked = lit(scene, light), None
    attempt = 0
    while defect != GOOD and marked is None:
        damaged = lit(DEFECTS[category][defect](scene, rng("defect", attempt)), light)
        change = _marked(np.abs(damaged - view).max(axis=-1))
        if change.mean() > 25 * _SPECK:  # else it fell where it hardly shows: draw it elsewhere
            view, marked = damaged, change
        attempt += 1
    view = view + rng("camera").normal(0, _CAMERA_NOISE, view.shape)
    picture = Image.fromarray((view * 255).round().clip(0, 255).astype(np.uint8))
    return picture, None if marked is None else Image.fromarray(marked.astype(np.uint8) * 255)


def _marked(change: Field) -> NDArray[np.bool_]:
    """Return the pixels (S, S) of a visible change: small gaps closed, specks left out."""
    size = change.shape[0]
    marked = ndimage.binary_closing(np.pad(change > _VISIBLE, 4), iterations=max(1, size // 128))[4:-4, 4:-4]
    parts, count = ndimage.label(marked, structure=np.ones((3, 3)))
    areas = ndimage.sum_labels(marked, parts, np.arange(count + 1))
    kept: NDArray[np.bool_] = (areas >= _SPECK * size * size)[parts] & marked
    return kept


def _write_category(
    folder: Path, category: str, seed: int, size: int, train: int, test_good: int, test_defect: int
) -> None:
    kinds = list(DEFECTS[category])
    plan = [("train", GOOD, number) for number in range(train)]
    plan += [("test", GOOD, number) for number in range(test_good)]
    plan += [("test", kinds[number % len(kinds)], number // len(kinds)) for number in range(test_defect)]
    for split, defect, number in plan:
        picture, mask = draw(category, defect, number, split=split, seed=seed, size=size)
        _save(picture, folder / split / defect / f"{number:03d}.png")
        if mask is not None:
            _save(mask, folder / "ground_truth" / defect / f"{number:03d}_mask.png")


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, compress_level=1)  # noise hardly shrinks, so be quick


def _is_there(root: Path, settings: dict[str, int]) -> bool:
    """Whether the tree of these settings is at the root; raise if something else is."""
    marker = root / MARKER
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != settings:
        what = f"a demo of other settings ({found})" if found else "something that is not the demo"
        raise UserError(f"dataset.root={root} holds {what}. Remove it, or set dataset.root to another folder.")
    return True
