"""Fingerprint of the data: independent of the place of the files, different for each change."""

import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.fingerprint import Fingerprint, data_fingerprint
from moleflow.data.transforms import ImageTransform
from moleflow.utils.errors import UserError
from moleflow.utils.io import sha256


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"), size=(16, 16), train=2, good=1, defect=2)


def fingerprint(root: Path, *categories: str) -> Fingerprint:
    return data_fingerprint(FolderDataModule(root, ImageTransform(8), categories or None))


def test_digest_of_every_file_by_category_kind_and_relative_name(root: Path) -> None:
    files = fingerprint(root)
    assert list(files) == ["bottle", "screw"]
    assert {kind: len(names) for kind, names in files["bottle"].items()} == {"train": 2, "test": 3, "masks": 2}
    name = "bottle/ground_truth/dent/000_mask.png"
    assert files["bottle"]["masks"][name] == sha256(root / name)
    assert list(fingerprint(root, "screw")) == ["screw"]


def test_copy_at_another_place_is_equal(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "mount" / "copy", copy_function=shutil.copyfile)
    (tmp_path / "link").symlink_to(tmp_path / "mount" / "copy")
    assert fingerprint(root) == fingerprint(tmp_path / "mount" / "copy") == fingerprint(tmp_path / "link")


def test_names_are_in_the_composed_form(root: Path) -> None:
    name = "Prüfling.png"
    path = root / "bottle/train/good" / unicodedata.normalize("NFD", name)
    shutil.copy(root / "bottle/train/good/000.png", path)
    assert f"bottle/train/good/{unicodedata.normalize('NFC', name)}" in fingerprint(root)["bottle"]["train"]


@pytest.mark.parametrize("name", ["train/good/000.png", "test/dent/000.png", "ground_truth/dent/000_mask.png"])
def test_changed_pixel_changes_one_digest(root: Path, name: str) -> None:
    before = fingerprint(root)
    path = root / "bottle" / name
    with Image.open(path) as image:
        changed = image.copy()
    changed.putpixel((0, 0), 77 if changed.mode == "L" else (1, 2, 3))
    changed.save(path)
    after = fingerprint(root)
    differing = [
        file for kind, files in after["bottle"].items() for file in files if files[file] != before["bottle"][kind][file]
    ]
    assert differing == [f"bottle/{name}"]
    assert after["screw"] == before["screw"]


def test_masks_of_a_folder_are_included(root: Path) -> None:
    folder = root / "bottle/ground_truth/dent"
    (folder / "000").mkdir()
    (folder / "000_mask.png").rename(folder / "000/a.png")
    shutil.copy(folder / "000/a.png", folder / "000/b.png")
    assert {name for name in fingerprint(root)["bottle"]["masks"] if "dent" in name} == {
        "bottle/ground_truth/dent/000/a.png",
        "bottle/ground_truth/dent/000/b.png",
    }


def test_visa_release(tmp_path: Path) -> None:
    files = fingerprint(write_visa_tree(tmp_path, ("candle",)))
    assert {kind: len(names) for kind, names in files["candle"].items()} == {"train": 6, "test": 6, "masks": 3}


def test_unreadable_file_raises(root: Path) -> None:
    data = FolderDataModule(root, ImageTransform(8))
    data.setup()
    (root / "bottle/train/good/000.png").unlink()
    with pytest.raises(UserError, match=r"train/good/000\.png cannot be read: No such file"):
        data_fingerprint(data)
