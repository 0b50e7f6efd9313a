"""The examination of a data set: each fault is found, a clean tree has none, and a run says the cheap part."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow.data import FolderDataModule, PictureTransform
from moleflow.data.__main__ import main
from moleflow.data.check import check
from moleflow.data.doubts import doubts
from moleflow.files import sha256

REAL = Path(__file__).parents[3] / "shared" / "data" / "realad_mini"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_mvtec_tree(tmp_path / "tree", ("bottle",), size=(32, 40))


def messages(root: Path) -> str:
    return "\n".join(f"{finding.severity} {finding.message}" for finding in check(root)[0])


def test_clean_trees_have_nothing_wrong(tree: Path, tmp_path: Path) -> None:
    assert check(tree) == ([], 12)
    assert check(write_visa_tree(tmp_path / "visa", size=(48, 60)))[0] == []


def test_every_fault_is_listed_at_once(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bottle = tree / "bottle"
    (bottle / "train/good/000.png").write_bytes((bottle / "train/good/000.png").read_bytes()[:60])
    shutil.copy(bottle / "train/good/001.png", bottle / "test/good/000.png")
    shutil.copy(bottle / "train/good/002.png", bottle / "train/good/003.png")
    Image.new("RGB", (90, 30)).save(bottle / "train/good/004.png")
    Image.new("L", (40, 32)).save(bottle / "ground_truth/dent/000_mask.png")
    Image.new("L", (20, 32), 255).save(bottle / "ground_truth/spot/000_mask.png")
    Image.new("L", (40, 32), 255).save(bottle / "ground_truth/dent/077_mask.png")
    (bottle / "ground_truth/dent/001_mask.png").unlink()
    found = messages(tree)
    for expected in (
        "error {}/train/good/000.png cannot be read as a picture",
        "error {}/test/good/000.png has the same content as {}/train/good/001.png",
        "warning 2 train pictures have one content",
        "warning {}/train/good/004.png is 90x30: of another shape",
        "warning {}/ground_truth/dent/000_mask.png marks nothing",
        "error {}/ground_truth/spot/000_mask.png is 20x32 pixels, its picture 40x32",
        "error {}/ground_truth/dent/077_mask.png is a mask without picture",
        "error {}/test/dent/001.png has no mask",
    ):
        assert expected.replace("{}", str(bottle)) in found, found
    assert main(["check", str(tree)]) == 1
    assert "5 errors, 4 warnings" in capsys.readouterr().out


def test_missing_kinds_of_pictures(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("dent", "spot"):
        shutil.rmtree(tree / "bottle/test" / kind)
        shutil.rmtree(tree / "bottle/ground_truth" / kind)
    assert messages(tree) == "warning bottle has no test pictures with a defect: nothing can be measured."
    shutil.rmtree(tree / "bottle/train/good")
    assert "error bottle has no training pictures: put some into train/good" in messages(tree)
    assert main(["check", str(tree)]) == 1
    assert "error    bottle has no training pictures" in capsys.readouterr().out


def test_elongated_pictures(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "long", ("bottle",), size=(32, 80))
    found = messages(root)
    assert "cuts 60% off" in found
    assert "bottle: of 3 marked defects" in found


def test_faults_of_a_visa_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_visa_tree(tmp_path / "visa")
    (root / "candle/Data/Images/Normal/0001.JPG").unlink()
    table = root / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace("pcb1,train", "pcb1,trian", 1))
    found = messages(root)
    assert "0001.JPG, which does not exist" in found
    assert "trian is unknown" in found
    assert main(["check", str(tmp_path / "nothing")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_what_a_run_says_by_itself(tree: Path) -> None:
    bottle = tree / "bottle"
    shutil.copy(bottle / "train/good/001.png", bottle / "test/good/000.png")
    Image.new("L", (40, 32)).save(bottle / "ground_truth/dent/000_mask.png")
    said = "\n".join(doubts(FolderDataModule(tree, PictureTransform(32), ["bottle"]), sha256))
    assert "same content as" in said
    assert "dent/000_mask.png marks nothing" in said


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real pictures")
def test_the_real_pictures_are_sound() -> None:
    findings, count = check(REAL)
    assert (findings, count) == ([], 338)
