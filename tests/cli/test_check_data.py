"""The command ``check-data``: one line per cause, all files on request, and the exit status."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.trees import write_mvtec_tree
from moleflow.cli.command import main


def test_one_line_per_cause_or_per_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_mvtec_tree(tmp_path, ("bottle",), size=(16, 16))
    shutil.copytree(root / "bottle/train/good", root / "bottle/train/good/cam1")
    assert main(["check-data", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("warning  6 files are not used: images are read from train/good, test/good and")
    assert lines[1] == "12 images read: 0 errors, 6 warnings. --all prints one line per file."
    assert main(["check-data", str(root), "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_input_range_is_that_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_mvtec_tree(tmp_path, ("bottle",), size=(16, 16))
    values = np.linspace(0, 4095, 256).reshape(16, 16)
    for number, path in enumerate(sorted(root.glob("bottle/t*/*/*.png"))):
        Image.fromarray((values - number).clip(0).astype(np.uint16)).save(path)
    assert main(["check-data", str(root)]) == 0
    assert "Set transform.input_range=[0,4095]" in capsys.readouterr().out
    assert main(["check-data", str(root), "--input-range", "0", "4095"]) == 0
    assert capsys.readouterr().out == "12 images read: 0 errors, 0 warnings.\n"
    assert main(["check-data", str(root), "--input-range", "0", "1000"]) == 0
    assert "12 of 12 images with more than 8 bits have values outside [0,1000]" in capsys.readouterr().out
    assert main(["check-data", str(root), "--input-range", "5", "1"]) == 1
    assert "input_range=[5.0, 1.0] must be" in capsys.readouterr().err


def test_other_names_and_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_mvtec_tree(tmp_path, ("bottle",), size=(16, 16))
    for split in ("train", "test"):
        (root / "bottle" / split / "good").rename(root / "bottle" / split / "ok")
    (root / "bottle/ground_truth").rename(root / "bottle/masks")
    assert main(["check-data", str(root)]) == 1
    assert "set dataset.normal_dir=ok" in capsys.readouterr().out
    assert main(["check-data", str(root), "--normal-dir=ok", "--mask-dir=masks", "--mask-suffix=_roi"]) == 0
    assert capsys.readouterr().out == "12 images read: 0 errors, 0 warnings.\n"
