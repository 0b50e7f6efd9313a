"""Changed data and findings of the data set in runs of the whole program."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.utils.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))


def test_changed_data_stop_the_same_command(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def train(*more: str) -> dict[str, Any]:
        return run_program([*TINY, "dataset=folder", f"dataset.root={root}", *more], tmp_path / "run")

    shutil.copytree(root / "bottle/train/good", root / "bottle/train/good/cam1")
    metrics = train()
    assert "6 files are not used: images are read from train/good" in caplog.text
    files = json.loads((tmp_path / "run/data.json").read_text())["files"]
    assert len(files["screw"]["train"]) == 6
    assert train() == metrics
    assert "nothing to do" in capsys.readouterr().out

    image = root / "screw/train/good/003.png"
    before = image.read_bytes()
    Image.new("RGB", (64, 64)).save(image)
    with pytest.raises(UserError, match=r"since the finished run[\s\S]*screw, train: 1 changed \(such as .*003\.png\)"):
        train()
    image.write_bytes(before)
    train()

    (tmp_path / "run/status.json").unlink()  # as if the run had been killed at its end
    shutil.copy(image, root / "screw/train/good/009.png")
    with pytest.raises(UserError, match=r"screw, train: 1 added \(such as .*009\.png\)[\s\S]*resume=force"):
        train()
    train("resume=force")
    assert "resume=force: screw, train: 1 added" in caplog.text

    shutil.rmtree(root)
    capsys.readouterr()
    train()  # on a machine without the data
    assert "nothing to do" in capsys.readouterr().out
