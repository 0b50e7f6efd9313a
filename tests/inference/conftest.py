"""A small trained run that all tests of inference share."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.trees import write_mvtec_tree

ROOT = Path(__file__).parents[2]


class Trained(NamedTuple):
    run: Path
    tree: Path


def train(tree: Path, run: Path, *overrides: str) -> None:
    tiny = [
        "dataset=folder",
        "backbone=resnet18",
        "backbone.pretrained=false",
        "backbone.dim=32",
        "transform.size=64",
        "epochs=8",
        "batch_size=4",
        "model.coupling_layers=2",
        "model.lora_rank=4",
        "optimizer.lr=3e-3",
        "features.cache_dir=null",
        "progress=false",
        "trainer=cpu",
    ]
    command = [sys.executable, "train.py", *tiny, f"dataset.root={tree}", f"hydra.run.dir={run}", *overrides]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    tree = write_mvtec_tree(root / "tree", ("bottle", "screw", "tile"), train=12, good=6)
    train(tree, root / "run", "dataset.categories=[bottle,screw]")
    return Trained(root / "run", tree)
