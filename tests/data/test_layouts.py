"""Folder layouts: samples of MVTec AD and VisA, and errors of missing or mismatched files."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow.data.image_io import read_mask
from moleflow.data.layouts import available_categories, category_faults, mvtec_samples, scan_category, visa_samples
from moleflow.data.samples import Sample
from moleflow.utils.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "realad_mini"


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    return write_mvtec_tree(tmp_path / "mvtec", size=(32, 40))


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    return write_visa_tree(tmp_path / "visa")


def counts(samples: Sequence[Sample]) -> list[int]:
    """Return the numbers of normal and defective training images, and of normal and defective test images."""
    return [
        sum((s.split, s.label) == key for s in samples)
        for key in (("train", 0), ("train", 1), ("test", 0), ("test", 1))
    ]


def rename(folder: Path, old: str, new: str) -> None:
    for path in sorted(folder.rglob(old)):
        path.rename(path.with_name(new.format(stem=path.stem, image_stem=path.stem.removesuffix("_mask"))))


def test_layout_of_mvtec(mvtec: Path) -> None:
    samples = mvtec_samples(mvtec, ["screw", "bottle"])
    assert counts(samples) == [12, 0, 6, 6]
    assert [s.category for s in samples] == ["screw"] * 12 + ["bottle"] * 12
    assert samples[0] == Sample(mvtec / "screw/train/good/000.png", "screw", "train", "good", None)
    last = samples[-1]
    assert last == Sample(
        mvtec / "bottle/test/spot/000.png", "bottle", "test", "spot", mvtec / "bottle/ground_truth/spot/000_mask.png"
    )
    assert samples == mvtec_samples(mvtec, ["screw", "bottle"])
    assert all((s.mask is not None) == bool(s.label) for s in samples)


def test_masks_with_the_name_of_the_image_and_any_suffix_case(mvtec: Path) -> None:
    expected = counts(mvtec_samples(mvtec, ["bottle"]))
    rename(mvtec / "bottle" / "ground_truth", "*_mask.png", "{image_stem}.PNG")
    rename(mvtec / "bottle" / "test", "*.png", "{stem}.Png")
    samples = mvtec_samples(mvtec, ["bottle"])
    assert counts(samples) == expected
    assert {s.mask.name for s in samples if s.mask} == {"000.PNG", "001.PNG"}


def test_other_files_are_ignored(mvtec: Path) -> None:
    before = mvtec_samples(mvtec, ["bottle"])
    for name in ("train/good/Thumbs.db", "test/notes.txt", "ground_truth/readme.md", "test/dent/.DS_Store.png"):
        (mvtec / "bottle" / name).write_text("no image")
    good = mvtec / "bottle/ground_truth/good"
    good.mkdir()
    Image.new("L", (40, 32)).save(good / "000_mask.png")
    (mvtec / ".cache" / "train").mkdir(parents=True)
    (mvtec / "license.txt").write_text("none")
    assert mvtec_samples(mvtec, ["bottle"]) == before
    assert available_categories(mvtec) == ("bottle", "screw")


def test_category_without_masks(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ["bottle"], masks=False)
    (root / "bottle" / "ground_truth" / "dent").mkdir(parents=True)
    samples = mvtec_samples(root, ["bottle"])
    assert counts(samples) == [6, 0, 3, 3]
    assert not any(s.mask for s in samples)


def test_visa_release(visa: Path) -> None:
    assert available_categories(visa) == ("candle", "pcb1")
    samples = visa_samples(visa, ["pcb1", "candle"])
    assert counts(samples) == [12, 0, 6, 6]
    assert [s.category for s in samples] == ["pcb1"] * 12 + ["candle"] * 12
    assert samples[0] == Sample(visa / "pcb1/Data/Images/Normal/0000.JPG", "pcb1", "train", "good", None)
    assert samples[-1].defect == "anomaly"
    assert samples[-1].mask == visa / "candle/Data/Masks/Anomaly/002.png"
    with Image.open(samples[-1].mask) as mask:
        assert np.asarray(mask).max() == 3
    assert set(np.unique(np.asarray(read_mask(samples[-1].mask)))) == {0, 255}


def test_visa_in_the_layout_of_mvtec(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ["candle", "pcb1"])
    assert visa_samples(root, ["pcb1"]) == mvtec_samples(root, ["pcb1"])


def first(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


def mask_size(root: Path) -> None:
    Image.new("L", (32, 32)).save(first(root, "bottle/ground_truth/dent/*"))


def mask_without_image(root: Path) -> None:
    first(root, "bottle/test/dent/*").unlink()


def mask_folder_without_images(root: Path) -> None:
    (root / "bottle/ground_truth/dent").rename(root / "bottle/ground_truth/bent")


def image_without_mask(root: Path) -> None:
    first(root, "bottle/ground_truth/dent/*").unlink()


def no_train_images(root: Path) -> None:
    for path in root.glob("bottle/train/good/*"):
        path.unlink()


def no_test_images(root: Path) -> None:
    (root / "bottle/test").rename(root / "bottle/tests")
    (root / "bottle/ground_truth").rename(root / "bottle/masks")


def broken_header(root: Path) -> None:
    first(root, "bottle/test/dent/*").write_bytes(b"\x89PNG but not really")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (mask_size, r"000_mask\.png has 32x32 pixels.*dent/000\.png has 40x32\. Replace it"),
        (
            mask_without_image,
            r"dent/000_mask\.png is a mask without an image in .*test/dent\. Add the image, or remove",
        ),
        (
            mask_folder_without_images,
            r"bent/000_mask\.png is a mask without .*more faults: `moleflow check-data .*mvtec`",
        ),
        (image_without_mask, r"test/dent/000\.png has no mask.*Add the mask, or remove all"),
        (no_train_images, r"bottle has no train images\. Add some to bottle/train/good"),
        (no_test_images, r"bottle has no test images"),
        (broken_header, r"dent/000\.png cannot be read"),
    ],
)
def test_faults_of_mvtec_files_raise(mvtec: Path, fault: Callable[[Path], None], message: str) -> None:
    fault(mvtec)
    mvtec_samples(mvtec, ["screw"])  # faults of other categories do not matter
    with pytest.raises(UserError, match=message):
        mvtec_samples(mvtec, ["bottle"])


@pytest.mark.parametrize("read", [mvtec_samples, visa_samples])
def test_missing_root_and_unknown_category_raise(
    tmp_path: Path, mvtec: Path, read: Callable[[Path, Sequence[str]], list[Sample]]
) -> None:
    with pytest.raises(UserError, match=r"dataset\.root=.*nowhere must be a folder\. Set dataset\.root"):
        read(tmp_path / "nowhere", ["bottle"])
    with pytest.raises(UserError, match=r"no category 'botle'\. It has: bottle, screw\. Did you mean 'bottle'\?"):
        read(mvtec, ["botle"])
    with pytest.raises(UserError, match="has no category"):
        read(mvtec / "bottle", ["bottle"])


Rows = list[dict[str, str]]


def edit(visa: Path, change: Callable[[Rows], Rows | None]) -> None:
    """Rewrite the csv of VisA; ``change`` edits the rows in place or returns others."""
    path = visa / "split_csv" / "1cls.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows) or rows
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def no_mask(rows: Rows) -> None:
    rows[-1]["mask"] = ""


def missing_image(rows: Rows) -> None:
    rows[0]["image"] = "candle/gone.JPG"


def missing_mask(rows: Rows) -> None:
    rows[-1]["mask"] = "pcb1/gone.png"


def unknown_split(rows: Rows) -> None:
    rows[0]["split"] = "trian"


def training_defect(rows: Rows) -> None:
    rows[-1]["split"] = "train"


def no_column(rows: Rows) -> Rows:
    return [{key: value for key, value in row.items() if key != "mask"} for row in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_mask, r"Anomaly/002\.JPG has no mask"),
        (missing_image, r"1cls\.csv names .*candle/gone\.JPG, which does not exist"),
        (missing_mask, r"1cls\.csv names .*pcb1/gone\.png, which does not exist"),
        (unknown_split, "0000.JPG: split=trian is unknown.*'train'"),
        (training_defect, r"Anomaly/002\.JPG is a training image with the defect anomaly\. Move it to the test images"),
        (no_column, r"1cls\.csv has no column mask"),
    ],
)
def test_faults_of_the_visa_csv_raise(visa: Path, change: Callable[[Rows], Rows | None], message: str) -> None:
    edit(visa, change)
    with pytest.raises(UserError, match=message):
        visa_samples(visa, ["candle", "pcb1"])


def test_visa_mask_of_another_size_and_missing_csv_raise(visa: Path) -> None:
    Image.new("L", (5, 5)).save(visa / "pcb1/Data/Masks/Anomaly/001.png")
    with pytest.raises(UserError, match=r"001\.png has 5x5 pixels"):
        visa_samples(visa, ["pcb1"])
    (visa / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(UserError, match=r"1cls\.csv does not exist"):
        visa_samples(visa, ["pcb1"])


def test_scan_returns_samples_and_all_faults(mvtec: Path, visa: Path) -> None:
    mask_folder_without_images(mvtec)
    samples, faults = scan_category(mvtec, "bottle")
    assert counts(samples) == [6, 0, 3, 3]
    assert len(faults) == 2
    edit(visa, missing_image)
    samples, faults = scan_category(visa, "candle")
    assert counts(samples) == [5, 0, 3, 3]
    assert len(faults) == 1


def test_all_faults_of_a_category_are_yielded(mvtec: Path) -> None:
    for fault in (mask_size, no_train_images):
        fault(mvtec)
    samples, _ = scan_category(mvtec, "bottle")
    faults = list(category_faults("bottle", samples))
    assert len(faults) == 2
    assert "no train images" in faults[0]
    assert "32x32" in faults[1]
    assert len(list(category_faults("bottle", samples, size=lambda path: None))) == 1


@pytest.mark.skipif(not REAL.is_dir(), reason="requires ../shared/data/realad_mini")
def test_real_images() -> None:
    assert available_categories(REAL) == ("alien", "cookie", "leather", "screw", "solar_mono")
    expected = {
        "cookie": ([31, 0, 14, 16], 16),
        "leather": ([40, 0, 16, 15], 15),
        "screw": ([40, 0, 15, 20], 20),
        "alien": ([30, 0, 14, 16], 0),
        "solar_mono": ([40, 0, 15, 16], 0),
    }
    for category, (expected_counts, masks) in expected.items():
        samples = mvtec_samples(REAL, [category])
        assert (counts(samples), sum(s.mask is not None for s in samples)) == (expected_counts, masks), category
