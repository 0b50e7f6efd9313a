"""Tiny artificial copies of the public data sets, in the folders and files of their releases."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from helpers.trees import fake_image, save, write_mvtec_tree, write_visa_tree

SIZE = (40, 48)
"""(height, width) of the images in pixels; not square, as in most releases."""


def write_loco_tree(root: Path, categories: Sequence[str]) -> Path:
    """Write MVTec LOCO AD: two groups of defects, a folder of masks per image, and saturation thresholds.

    The second logical anomaly has two masks, one with a relative and one with an absolute threshold.
    """
    config = [
        {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 20, "relative_saturation": False},
        {"defect_name": "swapped", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
        {"defect_name": "scratch", "pixel_value": 253, "saturation_threshold": 1.0, "relative_saturation": True},
    ]
    for category in categories:
        folder = root / category
        for number in range(5):
            save(fake_image(category, f"train/{number}", SIZE)[0], folder / f"train/good/{number:03d}.png")
        for number in range(2):
            save(fake_image(category, f"validation/{number}", SIZE)[0], folder / f"validation/good/{number:03d}.png")
            save(fake_image(category, f"good/{number}", SIZE)[0], folder / f"test/good/{number:03d}.png")
            for group, codes in (("logical_anomalies", (255, 254)), ("structural_anomalies", (253,))):
                image, mask = fake_image(category, f"{group}/{number}", SIZE, defect=True)
                save(image, folder / f"test/{group}/{number:03d}.png")
                for part, code in enumerate(codes[: number + 1]):
                    region = mask & (np.arange(SIZE[1]) % 2 == part) if number else mask
                    path = folder / f"ground_truth/{group}/{number:03d}/{part:03d}.png"
                    save(Image.fromarray(region.astype(np.uint8) * np.uint8(code)), path)
        (folder / "defects_config.json").write_text(json.dumps(config))
    return root


def write_ad2_tree(root: Path, categories: Sequence[str]) -> Path:
    """Write MVTec AD 2: public test images under two lightings, and unlabeled ones."""
    for category in categories:
        folder = root / category

        def write(place: str, name: str, defect: bool = False, folder: Path = folder, category: str = category) -> None:
            image, mask = fake_image(category, f"{place}/{name}", SIZE, defect)
            save(image, folder / place / f"{name}.png")
            if defect:
                save(_gray(mask), folder / "test_public/ground_truth/bad" / f"{name}_mask.png")

        for number in range(5):
            write("train/good", f"{number:03d}_regular")
        for number in range(2):
            write("validation/good", f"{number:03d}_regular")
            write("test_private", f"{number:03d}_regular")
            write("test_private_mixed", f"{number:03d}_mixed")
            for lighting in ("regular", "overexposed"):
                write("test_public/good", f"{number:03d}_{lighting}")
                write("test_public/bad", f"{number:03d}_{lighting}", defect=True)
    return root


def write_btad_tree(root: Path, categories: Sequence[str]) -> Path:
    """Write BTAD: ``ok`` and ``ko``, images and masks of several formats."""
    for index, category in enumerate(categories):
        images, masks = ((".bmp", ".png"), (".png", ".png"), (".bmp", ".bmp"))[index % 3]
        folder = root / category
        for number in range(5):
            save(fake_image(category, f"train/{number}", SIZE)[0], folder / f"train/ok/{number:04d}{images}")
        for number in range(3):
            save(fake_image(category, f"ok/{number}", SIZE)[0], folder / f"test/ok/{number:04d}{images}")
            image, mask = fake_image(category, f"ko/{number}", SIZE, defect=True)
            save(image, folder / f"test/ko/{number:04d}{images}")
            save(_gray(mask), folder / f"ground_truth/ko/{number:04d}{masks}")
    return root


def write_kolektor_tree(root: Path, categories: Sequence[str] = ()) -> Path:
    """Write KolektorSDD2: a mask beside each image, and one training image with a defect."""
    numbers = {"train": range(10000, 10007), "test": range(20000, 20006)}
    for split, names in numbers.items():
        for number in names:
            defect = number == 10006 or (split == "test" and number % 2 == 1)
            image, mask = fake_image("kolektor", f"{split}/{number}", SIZE, defect)
            save(image, root / split / f"{number}.png")
            save(_gray(mask), root / split / f"{number}_GT.png")
    return root


def write_real_iad_tree(root: Path, categories: Sequence[str]) -> Path:
    """Write Real-IAD: five views per object, splits in JSON files, images of one size.

    One view of each object with a defect does not show it: its entry has no mask. Images of a second size lack, and the
    folder of single views lists view 1 only.
    """
    for category in categories:
        content: dict[str, list[dict[str, str | None]]] = {"train": [], "test": []}

        def write(
            split: str, place: str, kind: str, number: int, category: str = category, content: dict = content
        ) -> None:
            for view in range(1, 6):
                name = f"{place}/S{number:04d}/{category}_{number:04d}_{kind}_C{view}_20231023"
                image, mask = fake_image(category, name, SIZE, defect=place != "OK" and view != 5)
                save(image, root / f"realiad_1024/{category}/{name}.jpg")
                has_mask = place != "OK" and view != 5
                if has_mask:
                    save(_gray(mask), root / f"realiad_1024/{category}/{name}.png")
                content[split].append(
                    {
                        "category": category,
                        "anomaly_class": place.removeprefix("NG/"),
                        "image_path": f"{name}.jpg",
                        "mask_path": f"{name}.png" if has_mask else None,
                    }
                )

        for number in range(1, 4):
            write("train", "OK", "OK", number)
        for number in range(4, 6):
            write("test", "OK", "OK", number)
        write("test", "NG/HS", "NG_HS", 6)
        write("test", "NG/QS", "NG_QS", 7)
        meta = {"normal_class": "OK", "prefix": f"{category}/"}
        for folder in ("realiad_jsons", "realiad_jsons_sv"):
            single = folder.endswith("_sv")
            lists = {
                split: [e for e in entries if not single or "_C1_" in str(e["image_path"])]
                for split, entries in content.items()
            }
            path = root / folder / f"{category}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"meta": meta, **lists}))
    return root


class DatasetTree(NamedTuple):
    """A generator of a public data set's tree.

    Attributes:
        write: Writes some categories below a root and returns it.
        categories: Two categories of the data set, or its only one.
    """

    write: Callable[[Path, Sequence[str]], Path]
    categories: tuple[str, ...]


TREES: Mapping[str, DatasetTree] = {
    "mvtec": DatasetTree(lambda root, categories: write_mvtec_tree(root, categories, SIZE), ("bottle", "screw")),
    "visa": DatasetTree(write_visa_tree, ("candle", "pcb1")),
    "mpdd": DatasetTree(lambda root, categories: write_mvtec_tree(root, categories, SIZE), ("connector", "tubes")),
    "mvtec_loco": DatasetTree(write_loco_tree, ("pushpins", "screw_bag")),
    "mvtec_ad2": DatasetTree(write_ad2_tree, ("can", "vial")),
    "btad": DatasetTree(write_btad_tree, ("01", "03")),
    "real_iad": DatasetTree(write_real_iad_tree, ("audiojack", "usb")),
    "kolektor_sdd2": DatasetTree(write_kolektor_tree, ("kolektor_sdd2",)),
}
"""Generators by option of the config group ``dataset``."""


def _gray(mask: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)
