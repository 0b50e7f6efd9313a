"""Layout of VisA as released: samples, and errors of its csv."""

import csv
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from helpers.layouts import copy, counts, read_samples, unused
from helpers.trees import write_visa_tree
from moleflow.data.image_io import read_mask
from moleflow.data.layouts.detection import layout_of
from moleflow.data.samples import Sample
from moleflow.utils.errors import UserError


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    return write_visa_tree(tmp_path / "visa")


def test_visa_release(visa: Path) -> None:
    assert layout_of(visa).categories() == ("candle", "pcb1")
    samples = read_samples(visa, ["pcb1", "candle"])
    assert counts(samples) == [12, 0, 6, 6]
    assert [s.category for s in samples] == ["pcb1"] * 12 + ["candle"] * 12
    assert samples[0] == Sample(visa / "pcb1/Data/Images/Normal/0000.JPG", "pcb1", "train", "good", None)
    assert samples[-1].defect == "anomaly"
    assert samples[-1].mask == visa / "candle/Data/Masks/Anomaly/002.png"
    with Image.open(samples[-1].mask) as mask:
        assert np.asarray(mask).max() == 3
    assert set(np.unique(np.asarray(read_mask(samples[-1].mask)))) == {0, 255}


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
        read_samples(visa, ["candle", "pcb1"])


def test_visa_mask_of_another_size_and_missing_csv_raise(visa: Path) -> None:
    Image.new("L", (5, 5)).save(visa / "pcb1/Data/Masks/Anomaly/001.png")
    with pytest.raises(UserError, match=r"001\.png has 5x5 pixels"):
        read_samples(visa, ["pcb1"])
    (visa / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(UserError, match=r"1cls\.csv does not exist"):
        read_samples(visa, ["pcb1"])


def test_scan_returns_samples_and_all_faults(visa: Path) -> None:
    edit(visa, missing_image)
    scan = layout_of(visa).scan("candle")
    assert counts(scan.samples) == [5, 0, 3, 3]
    assert len(scan.faults) == 1


def test_files_that_the_visa_csv_does_not_name_are_listed(visa: Path) -> None:
    copy(visa, "candle/Data/Images/Normal/0000.JPG", "candle/Data/Images/Normal/9999.JPG")
    (visa / "candle/image_anno.csv").write_text("image,label\n")
    lines = unused(visa, "candle")
    assert [line.split()[0] for line in lines] == ["warning", "note"]
    assert "9999.JPG is not used: not named in split_csv/1cls.csv. Add a row for each image" in lines[0]


@pytest.mark.parametrize(("on_disk", "in_csv"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_paths_of_the_visa_csv_in_another_unicode_form_or_with_backslashes(
    visa: Path, on_disk: Literal["NFC", "NFD"], in_csv: Literal["NFC", "NFD"]
) -> None:
    folder = visa / "candle/Data/Images/Anomaly"
    folder.rename(folder.with_name(unicodedata.normalize(on_disk, "Prüfling")))
    expected = {path.name for path in folder.parent.rglob("*.JPG")}
    name = unicodedata.normalize(in_csv, "Prüfling")
    edit(
        visa,
        lambda rows: [
            row
            | {
                "image": row["image"].replace("Anomaly", name).replace("/", "\\"),
                "mask": row["mask"].replace("/", "\\"),
            }
            for row in rows
        ],
    )
    scan = layout_of(visa).scan("candle")
    assert {sample.path.name for sample in scan.samples} == expected
    assert all(sample.path.is_file() for sample in scan.samples)
    assert all(sample.mask and sample.mask.is_file() for sample in scan.samples if sample.label)
    assert (scan.unused, scan.faults) == ((), ())
