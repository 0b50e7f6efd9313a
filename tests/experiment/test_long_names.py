"""Runs on categories whose names are long in bytes."""

from pathlib import Path

import pytest

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.detector.detector import MoLEFlow

CATEGORIES = ("가" * 30, "가" * 29 + "나")
"""Names of 30 Hangul syllables, with percent escapes 270 bytes each."""


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Matplotlib: no Korean font, and too long for the figure
def test_long_category_names_get_short_file_names(tmp_path: Path) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", CATEGORIES, train=3, good=1, defect=1)
    folder = tmp_path / "run"
    tiny = [key for key in TINY if not key.startswith("model.")]
    overrides = ["dataset=folder", f"dataset.root={tree}", *tiny, "model=gaussian", "callbacks=default"]
    metrics = run_program(overrides, folder)
    assert set(metrics["per_category"]) == set(CATEGORIES)
    assert all(len(path.name.encode()) <= 150 for path in folder.rglob("*"))
    assert len(list((folder / "model/experts").iterdir())) == len(list((folder / "pictures").glob("examples_*"))) == 2
    assert set(MoLEFlow.load(folder, "cpu").experts) == set(CATEGORIES)
