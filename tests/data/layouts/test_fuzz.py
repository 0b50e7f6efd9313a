"""Random changes of a small data set: check and data module agree, and every file is used or listed."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from helpers.trees import write_mvtec_tree
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.duplicates import too_few_training_images
from moleflow.data.image_io import ImageError, mask_files, read_image, read_mask
from moleflow.data.layouts.checks import layout_findings
from moleflow.data.layouts.detection import layout_of
from moleflow.data.transforms import ImageTransform
from moleflow.data.validation import check_dataset
from moleflow.utils.errors import UserError
from moleflow.utils.io import sha256

MUTATIONS = 200
NAMES = (
    "good", "Good", "ok", "OK", "normal", "dent", "Dent", "masks", "ground_truth", "Ground_Truth", "cam1", "bad",
    "train", "Train", "test", "Test", "validation", "000", "000_mask", "Prüfling", "스크루",
)  # fmt: skip
SUFFIXES = (".png", ".PNG", ".jpg", ".webp", ".gif", ".heic", ".txt", ".bmp", ".img", "", ".tif", ".jp2")


WRITABLE = (".png", ".PNG")


def entries(root: Path, folders: bool) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_dir() == folders)


def rename_folder(root: Path, rng: random.Random) -> None:
    path = rng.choice(entries(root, folders=True))
    target = path.with_name(rng.choice(NAMES))
    if not target.exists():
        path.rename(target)


def rename_file(root: Path, rng: random.Random) -> None:
    path = rng.choice(entries(root, folders=False))
    target = path.with_name(f"{rng.choice((path.stem, path.stem.upper(), '000', '.000', '000_GT_label'))}{path.suffix}")
    if not target.exists():
        path.rename(target)


def change_suffix(root: Path, rng: random.Random) -> None:
    path = rng.choice(entries(root, folders=False))
    target = path.with_name(path.stem + rng.choice(SUFFIXES))
    if not target.exists():
        path.rename(target)


def add_file(root: Path, rng: random.Random) -> None:
    source = rng.choice([path for path in entries(root, folders=False) if path.exists()])
    folder = rng.choice([root, *entries(root, folders=True)])
    target = folder / f"{rng.choice(('000', '000_mask', 'x', '.hidden', 'license'))}{rng.choice(SUFFIXES)}"
    if not target.exists() and not target.is_symlink():
        shutil.copy(source, target)


def move_into_sub_folder(root: Path, rng: random.Random) -> None:
    path = rng.choice(entries(root, folders=False))
    folder = path.parent / rng.choice(NAMES)
    if not folder.exists():
        folder.mkdir()
        path.rename(folder / path.name)


def move_up(root: Path, rng: random.Random) -> None:
    path = rng.choice(entries(root, folders=False))
    target = path.parent.parent / path.name
    if path.parent != root and not target.exists():
        path.rename(target)


def break_link(root: Path, rng: random.Random) -> None:
    path = rng.choice(entries(root, folders=False))
    path.unlink()
    path.symlink_to(root.parent / "annex" / path.name)


def link_file(root: Path, rng: random.Random) -> None:
    path = rng.choice(entries(root, folders=False))
    target = path.with_name(f"link{path.suffix}")
    if not target.is_symlink():
        target.symlink_to(path)


def remove_file(root: Path, rng: random.Random) -> None:
    rng.choice(entries(root, folders=False)).unlink()


def remove_folder(root: Path, rng: random.Random) -> None:
    shutil.rmtree(rng.choice([path for path in entries(root, folders=True) if path.parent != root]))


def change_mode(root: Path, rng: random.Random) -> None:
    path = rng.choice(entries(root, folders=False))
    if path.exists() and path.suffix in WRITABLE:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = rng.randint(1, 8)
        with Image.open(path) as image:
            image.convert(rng.choice(("1", "L", "LA", "P", "RGB", "RGBA"))).save(path, "PNG", exif=exif)


def change_bits(root: Path, rng: random.Random) -> None:
    path = rng.choice(entries(root, folders=False))
    if path.exists() and path.suffix in WRITABLE:
        with Image.open(path) as image:
            values = np.asarray(image.convert("L"))
        if rng.random() < 0.5:
            Image.fromarray(values.astype(np.uint16) * rng.choice((1, 16, 257))).save(path, "PNG")
        else:
            Image.fromarray((values * rng.choice((1 / 255, 1.0, 100.0))).astype(np.float32)).save(path, "TIFF")


CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    rename_folder, rename_folder, rename_file, change_suffix, change_suffix, add_file, add_file, move_into_sub_folder,
    move_up, break_link, link_file, remove_file, remove_folder, change_mode, change_bits,
)  # fmt: skip


def files_on_disk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder) / name for name in files if not name.startswith("."))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz") / "original"
    return write_mvtec_tree(root, ("bottle", "screw"), size=(16, 16), train=2, good=1, defect=2)


@pytest.mark.parametrize("block", range(4))
def test_every_file_is_used_or_listed(original: Path, tmp_path: Path, block: int) -> None:
    outcomes = set()
    for seed in range(block * MUTATIONS // 4, (block + 1) * MUTATIONS // 4):
        rng = random.Random(seed)
        root = tmp_path / str(seed)
        shutil.copytree(original, root)
        for _ in range(rng.randint(1, 4)):
            rng.choice(CHANGES)(root, rng)
        outcomes.add(check_one(root, seed))
    assert outcomes == {True, False}  # some trees can be trained on, others cannot


def is_readable(path: Path, read: Callable[[Path], Image.Image]) -> bool:
    try:
        return read(path).size > (0, 0)
    except ImageError:
        return False


def check_one(root: Path, seed: int) -> bool:
    """Check one tree; return whether a run accepts it."""
    layout = layout_of(root)
    categories = layout.categories()
    if not categories:
        for read in (lambda: check_dataset(root), lambda: FolderDataModule(root, ImageTransform(8)).setup()):
            with pytest.raises(UserError, match="has no category"):
                read()
        return False
    scans = layout.scans(categories)
    samples = [sample for scan in scans for sample in scan.samples]
    used = [sample.path for sample in samples]
    used += [file for sample in samples if sample.mask for file in mask_files(sample.mask)]
    unused = [file for scan in scans for file in scan.unused] + list(layout.files_outside(categories))
    listed = [file.path for file in unused]
    assert sorted(used + listed) == sorted(files_on_disk(root)), seed
    assert len(list(layout_findings(scans, layout, categories))) == len(unused)

    findings, count = check_dataset(root)
    assert count == len(samples)
    assert {file.finding() for file in unused} <= set(findings)
    errors = " ".join(finding.message for finding in findings if finding.severity == "error")
    for sample in samples:
        assert is_readable(sample.path, read_image) or f"{sample.path} cannot be read" in errors, seed
        assert sample.mask is None or is_readable(sample.mask, read_mask) or str(sample.mask) in errors, seed
    data = FolderDataModule(root, ImageTransform(8))
    fault = ""
    try:
        data.setup()
        for finding in too_few_training_images(samples, sha256):
            raise UserError(finding.message)
    except UserError as error:
        fault = str(error)
    if fault:  # a run stops, so the check must have an error
        assert any(finding.severity == "error" for finding in findings), (seed, fault)
        return False
    assert [s for c in data.categories for split in ("train", "test") for s in data.samples(split, c)] == samples
    read_errors = ("cannot be read", "has the same content")
    assert [f for f in findings if f.severity == "error" and not any(text in f.message for text in read_errors)] == []
    assert set(data.layout_findings()) <= set(findings)
    return True
