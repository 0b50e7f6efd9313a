"""A small trained run that all tests of inference share."""

from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree


class Trained(NamedTuple):
    run: Path
    tree: Path


def train(tree: Path, run: Path, *overrides: str) -> None:
    places = ("dataset=folder", f"dataset.root={tree}")
    run_program([*TINY, *places, "epochs=8", "optimizer.lr=3e-3", *overrides], run)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    tree = write_mvtec_tree(root / "tree", ("bottle", "screw", "tile"), train=12, good=6)
    train(tree, root / "run", "dataset.categories=[bottle,screw]", "callbacks=default")
    return Trained(root / "run", tree)
