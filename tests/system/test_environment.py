"""Runs and predictions with file names that are not UTF-8, output in ASCII and the backend of a notebook."""

import csv
import os
from pathlib import Path

import pytest

from helpers.processes import Processes
from helpers.program import TINY, run_command
from helpers.trees import write_mvtec_tree

ASCII_OUTPUT = "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict')"
"""Code with which the standard output of a process is that with ``PYTHONIOENCODING=ascii``."""


@pytest.mark.slow
def test_names_and_environment_do_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes
) -> None:
    """Before, such a run ended at its import or after its training, and a prediction at its first row."""
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"), size=(32, 32), masks=False)
    category = os.fsdecode("나사".encode("cp949"))
    (tree / "screw").rename(tree / category)
    name = os.fsdecode(b"\xc7\xdb000.png")
    for folder in ("train/good", "test/good", "test/dent"):
        (tree / category / folder / "000.png").rename(tree / category / folder / name)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    options = [option for option in TINY if not option.startswith(("model.", "callbacks"))]
    data = ["dataset=folder", f"dataset.root={tree}", f"hydra.run.dir={tmp_path / 'run'}"]
    training = run_command("train.py", *options, "model=gaussian", *data)
    assert training.returncode == 0, training.stderr
    with (tmp_path / "run" / "scores.csv").open(encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    escaped = category.encode(errors="surrogateescape").decode(errors="backslashreplace")
    assert rf"{escaped}/test/good/\xc7\xdb000.png" in paths
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == {
        "curves.png", "examples_bottle.jpg", f"examples_{category}.jpg", "learning.png", "routing.png", "scores.png",
        "defect_best.jpg", "defect_median.jpg", "defect_worst.jpg", "defects.json",
    }  # fmt: skip
    table = tmp_path / "table.csv"
    folder = tree / category / "test"
    arguments = ("predict", str(tmp_path / "run"), str(folder), f"--csv={table}")
    prediction = processes.run(*arguments, program="moleflow", setup=ASCII_OUTPUT)
    assert prediction.returncode == 0, prediction.stderr
    assert rf"{escaped}/test/good/\xc7\xdb000.png" in prediction.stdout
    assert rf"{escaped}/test/good/\xc7\xdb000.png" in table.read_text(encoding="utf-8")
