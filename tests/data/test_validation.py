"""Checks of a data set: findings of every fault, none for a correct data set, and the warnings before a run."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.duplicates import train_test_duplicates
from moleflow.data.findings import Finding, summarize
from moleflow.data.layouts.names import LayoutNames
from moleflow.data.samples import Sample
from moleflow.data.transforms import ImageTransform
from moleflow.data.validation import check_dataset, dataset_findings
from moleflow.utils.errors import UserError
from moleflow.utils.io import sha256

REAL = Path(__file__).parents[3] / "shared" / "data" / "realad_mini"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mvtec_tree(tmp_path / "tree", ("bottle",), size=(32, 40))


def findings(root: Path) -> str:
    return "\n".join(f"{finding.severity} {finding.message}" for finding in problems(root))


def problems(root: Path) -> list[Finding]:
    """Return the findings without the note on the view of the paper."""
    return [finding for finding in check_dataset(root)[0] if not finding.message.startswith("view=paper")]


def test_correct_data_sets_have_no_findings(root: Path, tmp_path: Path) -> None:
    note = "view=paper, as in the recorded experiments, would crop 20.0% of the area of the images (bottle: 20.0%) and "
    ((finding,), count) = check_dataset(root)
    assert count == 12
    assert finding.message.startswith(note)
    assert check_dataset(write_visa_tree(tmp_path / "visa", size=(48, 48)))[0] == []


def test_all_faults_are_listed(root: Path) -> None:
    bottle = root / "bottle"
    (bottle / "train/good/000.png").write_bytes((bottle / "train/good/000.png").read_bytes()[:60])
    shutil.copy(bottle / "train/good/001.png", bottle / "test/good/000.png")
    shutil.copy(bottle / "train/good/002.png", bottle / "train/good/003.png")
    Image.new("RGB", (90, 30)).save(bottle / "train/good/004.png")
    Image.new("L", (40, 32)).save(bottle / "ground_truth/dent/000_mask.png")
    Image.new("L", (20, 32), 255).save(bottle / "ground_truth/spot/000_mask.png")
    Image.new("L", (40, 32), 255).save(bottle / "ground_truth/dent/077_mask.png")
    (bottle / "ground_truth/dent/001_mask.png").unlink()
    text = findings(root)
    expected = (
        "error {}/train/good/000.png cannot be read as an image",
        "error The test image {}/test/good/000.png has the same content as the training image {}/train/good/001.png.",
        "warning 2 train images have the same content: {}/train/good/002.png, {}/train/good/003.png.",
        "warning {}/train/good/004.png has an aspect ratio of 3.00:1, unlike most images of bottle (1.25:1).",
        "warning {}/ground_truth/dent/000_mask.png has no defect pixel, but {}/test/dent/000.png is labeled dent.",
        "error {}/ground_truth/spot/000_mask.png has 20x32 pixels, but its image {}/test/spot/000.png has 40x32.",
        "warning bottle: 1 of 2 masks mark more than half of their image, such as {}/ground_truth/spot/000_mask.png.",
        "error {}/ground_truth/dent/077_mask.png is not used: no test image has this mask.",
        "error {}/test/dent/001.png has no mask, while other images of bottle have masks.",
    )
    for message in expected:
        assert message.replace("{}", str(bottle)) in text, text
    severities = [finding.severity for finding in problems(root)]
    assert (severities.count("error"), severities.count("warning")) == (5, 4)


def test_findings_are_in_the_order_of_the_categories(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ("bottle", "screw"))
    for category in ("screw", "bottle"):
        shutil.copy(root / category / "train/good/001.png", root / category / "test/good/000.png")
        Image.new("RGB", (90, 30)).save(root / category / "train/good/004.png")
    assert [finding.category for finding in problems(root)] == ["bottle"] * 2 + ["screw"] * 2


def test_missing_kinds_of_images(root: Path) -> None:
    for defect in ("dent", "spot"):
        shutil.rmtree(root / "bottle/test" / defect)
        shutil.rmtree(root / "bottle/ground_truth" / defect)
    undefined = "its AUROC is undefined and excluded from the means."
    assert findings(root) == f"warning bottle has no test images with a defect: {undefined}"
    shutil.rmtree(root / "bottle/train/good")
    assert "error bottle has no train images. Add some to bottle/train/good" in findings(root)
    shutil.rmtree(root / "bottle/test")
    assert "error bottle has no test images." in findings(root)
    assert f"warning bottle has no normal test images: {undefined}" in findings(root)


def test_categories_without_masks_are_noted(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ("bottle", "screw"))
    shutil.rmtree(root / "screw/ground_truth")
    note = "note screw has no masks: it has no pixel metrics and is excluded from their means."
    assert findings(root) == note
    shutil.rmtree(root / "bottle/ground_truth")
    assert [finding.message for finding in summarize(check_dataset(root)[0])] == [
        "2 categories have no masks, such as bottle: they are excluded from pixel metrics."
    ]


def test_elongated_images(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ("bottle",), size=(32, 80))
    assert not problems(root)
    assert not list(dataset_findings(FolderDataModule(root, ImageTransform(32, "proportional")), sha256))


def test_faults_of_the_visa_csv(tmp_path: Path) -> None:
    root = write_visa_tree(tmp_path / "visa")
    (root / "candle/Data/Images/Normal/0001.JPG").unlink()
    table = root / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace("pcb1,train", "pcb1,trian", 1))
    text = findings(root)
    assert "0001.JPG, which does not exist" in text
    assert "split=trian is unknown" in text


def test_root_without_categories_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a folder"):
        check_dataset(tmp_path / "missing")
    with pytest.raises(UserError, match="has no category"):
        check_dataset(tmp_path)


def test_duplicates_are_pairs_of_training_and_test_image() -> None:
    def sample(split: str, name: str) -> Sample:
        return Sample(Path(name), "bottle", split, "good", None)  # type: ignore[arg-type]

    samples = [sample("test", "a1"), sample("train", "a2"), sample("train", "a3"), sample("test", "b1")]
    pairs = [(train.path.name, test.path.name) for train, test in train_test_duplicates(samples, lambda p: p.name[0])]
    assert pairs == [("a2", "a1")]


def test_run_warns_of_duplicates_across_categories_and_of_lost_defects(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ("bottle", "screw"), size=(32, 80))
    shutil.copy(root / "bottle/train/good/001.png", root / "screw/test/good/000.png")
    Image.new("L", (80, 32)).save(root / "bottle/ground_truth/dent/000_mask.png")
    data = FolderDataModule(root, ImageTransform(32), ["bottle", "screw"])
    warnings = [finding.message for finding in dataset_findings(data, sha256)]
    assert "transform.mode=crop removes 60.0% of the area" in warnings[0]
    assert "screw/test/good/000.png has the same content as the training image" in warnings[1]
    assert "dent/000_mask.png has no defect pixel" in warnings[2]
    assert len(warnings) == 3 + sum("after the transform to 32 x 32 pixels" in warning for warning in warnings)


def test_check_finds_all_that_a_run_warns_of(root: Path) -> None:
    """With the default transform, messages are equal: both call the same function."""
    bottle = root / "bottle"
    shutil.copy(bottle / "train/good/001.png", bottle / "test/good/000.png")
    Image.new("L", (40, 32)).save(bottle / "ground_truth/dent/000_mask.png")
    shutil.copy(bottle / "train/good/002.png", bottle / "train/good/003.png")
    shutil.copytree(bottle / "train/good", bottle / "train/good/cam1")
    (bottle / "readme.txt").write_text("none")
    Image.new("RGB", (90, 30)).save(bottle / "train/good/004.png")
    (root / "stray").mkdir()
    shutil.copy(bottle / "train/good/001.png", root / "stray/a.png")
    findings = list(dataset_findings(FolderDataModule(root, ImageTransform(224, "proportional")), sha256))
    assert len(findings) == 12
    assert problems(root) == sorted(findings, key=lambda finding: finding.category)
    assert len(summarize(findings)) == 7


def test_summary_has_one_line_per_cause_with_count_and_example() -> None:
    findings = [
        Finding("warning", "bottle", "a is odd.", "odd", "{count} are odd, such as a{count}."),
        Finding("error", "bottle", "x is broken.", "broken"),
        Finding("warning", "screw", "b is odd.", "odd"),
        Finding("error", "screw", "y is broken.", "broken"),
        Finding("error", "screw", "single"),
    ]
    assert [finding.message for finding in summarize(findings)] == [
        "2 are odd, such as a{count}.",
        "x is broken. The same holds for 1 more.",
        "single",
    ]
    assert summarize(findings[:1]) == findings[:1]


def test_check_with_other_names(root: Path) -> None:
    for split in ("train", "test"):
        (root / "bottle" / split / "good").rename(root / "bottle" / split / "ok")
    (root / "bottle/ground_truth").rename(root / "bottle/masks")
    ((finding,), count) = check_dataset(root, LayoutNames("ok", "masks"))
    assert (finding.severity, count) == ("note", 12)
    assert "error" in findings(root)


@pytest.mark.skipif(not REAL.is_dir(), reason="requires ../shared/data/realad_mini")
def test_real_images_have_notes_only() -> None:
    findings, count = check_dataset(REAL)
    notes = {("note", ""), ("note", "alien"), ("note", "solar_mono")}  # licenses, and two categories without masks
    assert {(finding.severity, finding.category) for finding in findings} == notes
    assert count == 338
