import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow.data.layouts import available_categories, mvtec_samples, visa_samples
from moleflow.data.read import read_mask
from moleflow.data.sample import Sample
from moleflow.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "realad_mini"


@pytest.fixture
def mvtec(tmp_path):
    return write_mvtec_tree(tmp_path / "mvtec", size=(32, 40))


@pytest.fixture
def visa(tmp_path):
    return write_visa_tree(tmp_path / "visa")


def counts(samples):
    return [
        sum((s.split, s.label) == key for s in samples)
        for key in (("train", 0), ("train", 1), ("test", 0), ("test", 1))
    ]


def rename(folder, old, new):
    for path in sorted(folder.rglob(old)):
        path.rename(path.with_name(new.format(stem=path.stem, plain=path.stem.removesuffix("_mask"))))


def test_mvtec_tree(mvtec):
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


def test_masks_without_suffix_and_any_suffix_case(mvtec):
    expected = counts(mvtec_samples(mvtec, ["bottle"]))
    rename(mvtec / "bottle" / "ground_truth", "*_mask.png", "{plain}.PNG")
    rename(mvtec / "bottle" / "test", "*.png", "{stem}.Png")
    samples = mvtec_samples(mvtec, ["bottle"])
    assert counts(samples) == expected
    assert {s.mask.name for s in samples if s.mask} == {"000.PNG", "001.PNG"}


def test_other_files_are_passed_over(mvtec):
    before = mvtec_samples(mvtec, ["bottle"])
    for name in ("train/good/Thumbs.db", "test/notes.txt", "ground_truth/readme.md", "test/dent/.DS_Store.png"):
        (mvtec / "bottle" / name).write_text("no picture")
    good = mvtec / "bottle/ground_truth/good"
    good.mkdir()
    Image.new("L", (40, 32)).save(good / "000_mask.png")
    (mvtec / ".cache" / "train").mkdir(parents=True)
    (mvtec / "license.txt").write_text("none")
    assert mvtec_samples(mvtec, ["bottle"]) == before
    assert available_categories(mvtec) == ("bottle", "screw")


def test_a_tree_without_masks(tmp_path):
    root = write_mvtec_tree(tmp_path, ["bottle"], masks=False)
    (root / "bottle" / "ground_truth" / "dent").mkdir(parents=True)
    samples = mvtec_samples(root, ["bottle"])
    assert counts(samples) == [6, 0, 3, 3]
    assert not any(s.mask for s in samples)


def test_visa_release(visa):
    assert available_categories(visa) == ("candle", "pcb1")
    samples = visa_samples(visa, ["pcb1", "candle"])
    assert counts(samples) == [12, 0, 6, 6]
    assert [s.category for s in samples] == ["pcb1"] * 12 + ["candle"] * 12
    assert samples[0] == Sample(visa / "pcb1/Data/Images/Normal/0000.JPG", "pcb1", "train", "good", None)
    assert samples[-1].defect == "anomaly"
    assert samples[-1].mask == visa / "candle/Data/Masks/Anomaly/002.png"
    assert np.asarray(Image.open(samples[-1].mask)).max() == 3
    assert set(np.unique(np.asarray(read_mask(samples[-1].mask)))) == {0, 255}


def test_visa_converted_to_the_mvtec_tree(tmp_path):
    root = write_mvtec_tree(tmp_path, ["candle", "pcb1"])
    assert visa_samples(root, ["pcb1"]) == mvtec_samples(root, ["pcb1"])


def first(root, pattern):
    return sorted(root.rglob(pattern))[0]


def break_size(root):
    path = first(root, "bottle/ground_truth/dent/*")
    Image.new("L", (32, 32)).save(path)


def unpaired_mask(root):
    first(root, "bottle/test/dent/*").unlink()


def unpaired_mask_folder(root):
    (root / "bottle/ground_truth/dent").rename(root / "bottle/ground_truth/bent")


def no_mask(root):
    first(root, "bottle/ground_truth/dent/*").unlink()


def empty_train(root):
    for path in root.glob("bottle/train/good/*"):
        path.unlink()


def empty_test(root):
    (root / "bottle/test").rename(root / "bottle/tests")
    (root / "bottle/ground_truth").rename(root / "bottle/masks")


def broken_header(root):
    first(root, "bottle/test/dent/*").write_bytes(b"\x89PNG but not really")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_size, r"000_mask\.png is 32x32 pixels.*dent/000\.png is 40x32.*Make the mask as large"),
        (unpaired_mask, r"dent/000_mask\.png is a mask without picture: .*Add the picture, or remove"),
        (unpaired_mask_folder, r"bent/000_mask\.png is a mask without picture \(and 1 more\)"),
        (no_mask, r"test/dent/000\.png has no mask.*Add the mask, or remove all"),
        (empty_train, r"bottle has no train pictures .*train/good"),
        (empty_test, r"bottle has no test pictures"),
        (broken_header, r"dent/000\.png cannot be read"),
    ],
)
def test_faults_of_the_mvtec_tree_are_told_before_training(mvtec, fault, message):
    fault(mvtec)
    mvtec_samples(mvtec, ["screw"])  # a category that was not asked for does no harm
    with pytest.raises(UserError, match=message):
        mvtec_samples(mvtec, ["bottle"])


@pytest.mark.parametrize("read", [mvtec_samples, visa_samples])
def test_missing_root_and_unknown_category(tmp_path, mvtec, read):
    with pytest.raises(UserError, match=r"dataset\.root=.*nowhere is no folder\. Set dataset\.root"):
        read(tmp_path / "nowhere", ["bottle"])
    with pytest.raises(UserError, match=r"no category 'botle'\. It holds: bottle, screw\. Did you mean 'bottle'\?"):
        read(mvtec, ["botle"])
    with pytest.raises(UserError, match="holds no category"):
        read(mvtec / "bottle", ["bottle"])


def edit(visa, change):
    path = visa / "split_csv" / "1cls.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows) or rows
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def lose_mask(rows):
    rows[-1]["mask"] = ""


def wrong_picture(rows):
    rows[0]["image"] = "candle/gone.JPG"


def wrong_mask(rows):
    rows[-1]["mask"] = "pcb1/gone.png"


def wrong_split(rows):
    rows[0]["split"] = "trian"


def taught_defect(rows):
    rows[-1]["split"] = "train"


def no_column(rows):
    return [{key: value for key, value in row.items() if key != "mask"} for row in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose_mask, r"Anomaly/002\.JPG has no mask"),
        (wrong_picture, r"1cls\.csv points to .*candle/gone\.JPG, which does not exist"),
        (wrong_mask, r"1cls\.csv points to .*pcb1/gone\.png, which does not exist"),
        (wrong_split, "split=trian is unknown.*'train'"),
        (taught_defect, r"Anomaly/002\.JPG is to be learned from, yet it has a defect"),
        (no_column, r"1cls\.csv lacks mask"),
    ],
)
def test_faults_of_the_visa_table(visa, change, message):
    edit(visa, change)
    with pytest.raises(UserError, match=message):
        visa_samples(visa, ["candle", "pcb1"])


def test_visa_mask_of_another_size_and_a_missing_table(visa):
    Image.new("L", (5, 5)).save(visa / "pcb1/Data/Masks/Anomaly/001.png")
    with pytest.raises(UserError, match=r"001\.png is 5x5 pixels"):
        visa_samples(visa, ["pcb1"])
    (visa / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(UserError, match=r"1cls\.csv does not exist"):
        visa_samples(visa, ["pcb1"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pictures are not beside the repository")
def test_the_real_pictures_are_read_whole():
    assert available_categories(REAL) == ("alien", "cookie", "leather", "screw", "solar_mono")
    expected = {
        "cookie": ([31, 0, 14, 16], 16),
        "leather": ([40, 0, 16, 15], 15),
        "screw": ([40, 0, 15, 20], 20),
        "alien": ([30, 0, 14, 16], 0),
        "solar_mono": ([40, 0, 15, 16], 0),
    }
    for category, (numbers, masks) in expected.items():
        samples = mvtec_samples(REAL, [category])
        assert (counts(samples), sum(s.mask is not None for s in samples)) == (numbers, masks), category
