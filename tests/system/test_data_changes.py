"""Changed data, moved weights and findings of the data set in runs of the whole program."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.detector.detector import MoLEFlow
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


def test_moved_weights_continue_the_run(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def train(weights: Path) -> dict[str, Any]:
        source = ["backbone.pretrained=true", f"backbone.weights={weights}"]
        return run_program([*TINY, "dataset=folder", f"dataset.root={root}", *source], run)

    run, weights = tmp_path / "run", tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    metrics, scores = train(weights), (run / "scores.csv").read_bytes()
    weights = weights.rename(tmp_path / "moved.safetensors")
    assert train(weights) == metrics
    assert "nothing to do" in capsys.readouterr().out

    (run / "status.json").unlink()  # as if the run had been killed at its end
    (run / "scores.csv").unlink()
    train(weights)
    assert (run / "scores.csv").read_bytes() == scores
    assert MoLEFlow.load(run).settings["backbone"]["weights"] == str(weights)

    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    with pytest.raises(UserError, match=r"finished run of another configuration[\s\S]*backbone\.weights: 'sha256"):
        train(weights)
