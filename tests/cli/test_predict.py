"""Tests of ``moleflow predict`` with a detector of fixed scores: table, files, overlays and exit status."""

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow.cli.command import main
from moleflow.cli.predict import COLUMNS, find_images
from moleflow.data.image_io import read_image
from moleflow.data.transforms import ImageTransform
from moleflow.detector.types import ScoredImage
from moleflow.scoring.thresholds import Threshold, Thresholds


class FixedDetector:
    """Detector whose image score is the mean gray value divided by 255."""

    experts = {"screw": SimpleNamespace(transform=ImageTransform(32, "squash"))}  # noqa: RUF012

    def score(self, paths: Sequence[Path], expert: str | None = None) -> list[ScoredImage]:
        assert expert in (None, "screw")
        scores = [float(torch.tensor(read_image(path).convert("L").getpixel((0, 0))) / 255) for path in paths]
        return [
            ScoredImage(path, score, torch.full((32, 32), score), "screw", float("inf"), 0.5)
            for path, score in zip(paths, scores, strict=True)
        ]

    def thresholds(self, name: str, rate: float = 0.01, unknown_rate: float = 0.001) -> Thresholds:
        threshold = Threshold(0.4 - rate, 0.1)
        return Thresholds(threshold, threshold, Threshold(1.0, 0.1), (0.05, 0.1, 0.15), rate)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with a dark, a gray and a bright image; the model is a `FixedDetector`."""
    monkeypatch.setattr("moleflow.inference.ensemble.load_detector", lambda folder, device: FixedDetector())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").mkdir()
    (tmp_path / "MODEL" / "manifest.json").touch()
    folder = tmp_path / "images"
    folder.mkdir()
    for name, value in (("dark", 10), ("gray", 90), ("bright", 250)):
        Image.new("RGB", (64, 48), (value, value, value)).save(folder / f"{name}.png")
    return folder


def test_table_has_one_row_per_image(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "MODEL", str(images)]) == 0
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert tuple(header) == COLUMNS
    assert [(*row[:3], *row[4:6], Path(row[-1]).name) for row in rows] == [
        ("defect", "0.9804", "0.39", "screw", "-", "bright.png"),
        ("normal", "0.03922", "0.39", "screw", "-", "dark.png"),
        ("normal", "0.3529", "0.39", "screw", "-", "gray.png"),
    ]
    normalized = [1 / (1 + math.exp((0.39 - score) / 0.1)) for score in (250 / 255, 10 / 255, 90 / 255)]
    assert [float(row[3]) for row in rows] == pytest.approx(normalized, rel=1e-3)


@pytest.mark.parametrize(
    ("option", "threshold"),
    [("--false-alarm-rate=0.1", "0.3"), ("--threshold=0.2", "0.2"), ("--threshold=screw=0.1", "0.1")],
)
def test_threshold_follows_from_the_options(
    option: str, threshold: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "MODEL", str(images / "gray.png"), option, "--expert=screw"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["defect", "0.3529", threshold]


@pytest.mark.parametrize(
    ("threshold", "message"),
    [("scrw=1", "Did you mean 'screw'"), ("screw=high", "'high' is no number"), ("nan", "must be a finite number")],
)
def test_thresholds_that_are_not_allowed(
    threshold: str, message: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "MODEL", str(images / "gray.png"), "--threshold", threshold]) == 1
    assert message in capsys.readouterr().err


def test_maps_have_the_size_of_the_image_and_unique_names(images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 30), (250,) * 3).save(images / "bright.bmp")
    maps = tmp_path / "maps"
    paths = [str(images / name) for name in ("bright.bmp", "bright.png", "dark.png")]
    assert main(["predict", "MODEL", *paths, "--maps", str(maps), "--map-format", "png", "npy", "tiff"]) == 0
    assert len(list(maps.iterdir())) == 9
    sizes = {}
    for path in maps.glob("*.png"):
        array = np.load(path.with_suffix(".npy"))
        with Image.open(path) as overlay, Image.open(path.with_suffix(".tiff")) as tiff:
            assert overlay.size == tiff.size == array.shape[::-1]
            np.testing.assert_array_equal(np.asarray(tiff), array)
            sizes[path.name.rpartition("images_")[2]] = overlay.size
    assert sizes == {"bright.png": (20, 30), "bright-2.png": (64, 48), "dark.png": (64, 48)}


def test_json_has_regions_and_thresholds(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    assert main(["predict", "MODEL", str(images), f"--json={file}"]) == 0
    content = json.loads(file.read_text())
    bright, dark, _ = content["predictions"]
    (region,) = bright["regions"]
    assert (region["box"], region["area"]) == ([0, 0, 64, 48], 64 * 48)
    assert bright["mask"] == {"size": [48, 64], "counts": [0, 64 * 48]}
    assert (dark["regions"], dark["mask"]["counts"]) == ([], [64 * 48])
    expert = content["experts"]["screw"]
    assert (expert["score_threshold"], expert["false_alarm_rate"], expert["source"]) == (0.39, 0.01, "training")
    assert (expert["comparison"]["count"], expert["comparison"]["above"]) == (3, 1)


def test_drift_is_reported(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(20):
        Image.new("RGB", (8, 8), (60 + i,) * 3).save(images / f"later{i}.png")
    assert main(["predict", "MODEL", *map(str, images.glob("later*.png"))]) == 0
    error = capsys.readouterr().err
    assert "only 0 of 20 images have a score at or below the median" in error
    assert "moleflow calibrate MODEL FOLDER" in error


def test_unreadable_images_are_rows_and_files_have_all_rows(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated = images / "truncated.png"
    truncated.write_bytes((images / "dark.png").read_bytes()[:50])
    files = [
        f"--csv={tmp_path / 'out' / 'table.csv'}",
        f"--json={tmp_path / 'table.json'}",
        f"--maps={tmp_path / 'maps'}",
    ]
    paths = [str(images / "dark.png"), str(truncated), str(images / "missing.png"), str(images / "dark.png")]
    assert main(["predict", "MODEL", *paths, *files]) == 0
    rows = json.loads((tmp_path / "table.json").read_text())["predictions"]
    assert [(Path(row["path"]).stem, row["verdict"]) for row in rows] == [
        ("dark", "normal"), ("truncated", "error"), ("missing", "error")
    ]  # fmt: skip
    assert rows[0]["margin"] is None  # infinite with one expert
    assert "truncated.png" in rows[1]["error"]
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["verdict"] for row in table] == ["normal", "error", "error"]
    assert list(table[0]) == list(rows[1])
    (overlay,) = (tmp_path / "maps").iterdir()
    assert overlay.name.endswith("images_dark.png")
    with Image.open(overlay) as image:
        assert image.size == (64, 48)
    out = capsys.readouterr().out
    assert out.count(str(truncated)) == out.count(str(images / "missing.png")) == 1


def test_file_names_that_are_not_utf8_are_escaped(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "dark.png").rename(images / os.fsdecode(b"\xc7\xd1.png"))
    (images / os.fsdecode(b"\xc7\xd2.png")).write_bytes(b"no image")
    output = io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict")
    monkeypatch.setattr("sys.stdout", output)
    files = [f"--csv={tmp_path / 'table.csv'}", f"--json={tmp_path / 'table.json'}", f"--maps={tmp_path / 'maps'}"]
    assert main(["predict", "MODEL", str(images), *files]) == 0
    names = {"bright.png", "gray.png", r"\xc7\xd1.png", r"\xc7\xd2.png"}
    assert {Path(row["path"]).name for row in json.loads((tmp_path / "table.json").read_text())["predictions"]} == names
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        assert {Path(row["path"]).name for row in csv.DictReader(file)} == names
    printed = output.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert all(name in printed for name in names)
    assert len(list((tmp_path / "maps").iterdir())) == 3


def test_rows_of_the_csv_file_are_written_before_they_are_printed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process leaves every row that it printed."""
    table = tmp_path / "out" / "table.csv"
    table.parent.mkdir()
    table.write_text("of an earlier command")
    rows: list[int] = []

    def write(line: str) -> None:
        assert Path(line.split()[-1]).name in table.read_text()
        rows.append(table.read_text().count("\n"))
        if len(rows) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.tqdm.write", write)
    assert main(["predict", "MODEL", str(images), f"--csv={table}"]) == 130
    assert rows == [2, 3]  # with the header
    with table.open(newline="", encoding="utf-8") as file:
        assert [Path(row["path"]).stem for row in csv.DictReader(file)] == ["bright", "dark"]


def test_csv_file_needs_a_folder(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["predict", "MODEL", str(images), f"--csv={tmp_path / 'file' / 'table.csv'}"]) == 1
    assert f"{tmp_path / 'file'} is a file. Choose a folder." in capsys.readouterr().err


def test_status_is_1_without_any_score(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "MODEL", str(images / "missing.png")]) == 1
    (tmp_path / "empty").mkdir()
    assert main(["predict", "MODEL", str(tmp_path / "empty")]) == 1
    assert f"There is no image in {tmp_path / 'empty'}." in capsys.readouterr().err


def test_maps_need_a_folder(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["predict", "MODEL", str(images / "dark.png"), "--maps", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_find_images_in_files_folders_and_globs(images: Path) -> None:
    (images / "sub").mkdir()
    (images / "dark.png").rename(images / "sub" / "dark.PNG")
    (images / "notes.txt").touch()
    (images / "._gray.png").touch()  # of macOS
    (images / "ground_truth" / "crack").mkdir(parents=True)
    Image.new("L", (4, 4)).save(images / "ground_truth" / "crack" / "000_mask.png")
    expected = [images / "bright.png", images / "gray.png", images / "sub" / "dark.PNG"]
    assert find_images([str(images)]) == expected
    assert find_images([str(images / "*.png"), str(images)]) == expected
    assert find_images([str(images / "**" / "*.PNG")]) == [expected[2]]
    assert find_images([str(images / "missing.png"), str(images / "missing*")]) == [
        images / "missing.png", images / "missing*"
    ]  # fmt: skip
    bracket = images / "part[1].png"
    Image.new("L", (4, 4)).save(bracket)
    assert find_images([str(bracket)]) == [bracket]


def test_note_about_thresholds_of_images_that_were_trained_on(
    images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted(self: FixedDetector, name: str, *rates: float) -> Thresholds:
        return replace(thresholds(self, name), source="fitted")

    assert main(["predict", "MODEL", str(images)]) == 0
    assert "trained on" not in capsys.readouterr().err
    thresholds = FixedDetector.thresholds
    monkeypatch.setattr(FixedDetector, "thresholds", fitted)
    assert main(["predict", "MODEL", str(images)]) == 0
    message = capsys.readouterr().err
    assert "screw: the thresholds are computed from images that the model was trained on" in message
    assert "moleflow calibrate MODEL FOLDER" in message
