"""Tests of the Python interface: its examples, equality with the commands, and errors."""

import doctest
import logging
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

import moleflow
from helpers.detectors import SmallRun
from helpers.processes import Processes
from helpers.program import TINY, run_command
from helpers.trees import write_mvtec_tree
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_json

EXPERIMENT = """\
# @package _global_
# Parts of two categories.
defaults:
  - override /dataset: folder
  - override /backbone: efficientnet_lite0
  - override /model: patchcore
  - override /callbacks: minimal
name: parts
dataset:
  root: data
transform:
  size: 64
"""
"""The experiment of the examples."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data set of the examples, in which their runs are written."""
    folder = tmp_path_factory.mktemp("examples")
    write_mvtec_tree(folder / "data", train=12)
    experiment = folder / "conf" / "experiment" / "parts.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(EXPERIMENT, encoding="utf-8")
    return folder


def test_examples_of_the_docstrings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MOLEFLOW_CACHE", str(folder / "cache"))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    finder = doctest.DocTestFinder(recurse=False)
    count = 0
    for example in (moleflow, moleflow.train, moleflow.load, moleflow.RunResult, moleflow.report):
        for test in finder.find(example, globs={}):
            count += len(test.examples)
            runner.run(test)
    assert count > 15
    assert runner.summarize().failed == 0


def test_train_writes_the_run_folder_of_the_command(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mvtec_tree(tmp_path / "data", ("bottle",))
    overrides = ["dataset=folder", "dataset.root=data", *TINY, "model=gaussian", "trainer=cpu", "seed=3"]
    monkeypatch.chdir(tmp_path)
    run = moleflow.train(overrides)
    folders = list(Path("runs").glob("*/*/seed3"))
    assert folders == [run.folder]
    assert run.metrics == read_json(run.folder / "metrics.json")
    before = {path: path.read_bytes() for path in run.folder.rglob("*.*") if path.is_file()}
    assert "Results in" in (run.folder / "train.log").read_text()
    process = processes.run(*overrides, cwd=tmp_path)  # the command continues in the same folder
    assert f"{run.folder} is finished already" in process.stdout, process.stderr
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*.*") if path.is_file()}


def test_train_leaves_hydra_and_the_loggers_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = (HydraConfig.instance().cfg, logging.getLogger().handlers[:], logging.getLogger("moleflow").handlers[:])
    level = logging.getLogger("moleflow").level
    with pytest.raises(UserError, match=r"dataset\.root=null"):
        moleflow.train(["dataset=folder"])
    assert before == (
        HydraConfig.instance().cfg, logging.getLogger().handlers, logging.getLogger("moleflow").handlers
    )  # fmt: skip
    assert logging.getLogger("moleflow").level == level


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+experiment=quickstrt"], ["experiment=quickstrt is unknown.", "'quickstart'"]),
        (["learning_rate=1"], ["The key learning_rate is unknown."]),
        (["dataset.root=Prüfling (1)"], ["needs double quotes"]),
        (["-m", "seed=0,1"], ["-m is an option of the command", "single run"]),
        (["seed=0,1"], ["seed=0,1"]),
        (["+sweep=lr"], ["+sweep=lr describes several runs.", "moleflow train -m"]),
        (["dataset=folder", "dataset.root=/no/such/folder"], ["/no/such/folder"]),
        (["dataset=folder", "hydra.run.dir=/dev/null/run"], ["hydra.run.dir=/dev/null/run cannot be created"]),
    ],
)
def test_wrong_overrides_are_user_errors(
    overrides: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        moleflow.train(overrides)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not list(tmp_path.rglob("metrics.json"))


def test_load_and_report_accept_single_paths(small_run: SmallRun, tmp_path: Path) -> None:
    from_run, from_model = moleflow.load(str(small_run.folder)), moleflow.load(small_run.folder / "model")
    assert list(from_run.experts) == list(from_model.experts) == ["bottle", "screw"]
    page = moleflow.report(small_run.folder, tmp_path / "report", metric="image_auroc", title="One run")
    assert page == tmp_path / "report" / "index.html"
    assert "<h1>One run</h1>" in page.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="Did you mean 'image_auroc'"):
        moleflow.report(small_run.folder, tmp_path / "report", metric="image_auroq")


def test_representations_contain_names_and_no_tensors(small_run: SmallRun) -> None:
    model = moleflow.load(small_run.folder)
    (prediction,) = model.predict([next(small_run.tree.glob("screw/test/good/*.png"))])
    objects = (model, model.router, prediction, model.experts["screw"], *model.score([prediction.path]))
    for value in objects:
        assert "screw" in repr(value)
        assert len(repr(value)) < 600
        assert "tensor" not in repr(value)


def test_public_names_are_imported_on_first_access() -> None:
    code = "import sys, moleflow; print(sorted(set(dir(moleflow)) & {*moleflow.__all__}) == sorted(moleflow.__all__)); "
    code += "print('torch' in sys.modules or 'hydra' in sys.modules, moleflow.UserError, 'torch' in sys.modules)"
    process = run_command("-c", code)
    assert process.stdout.split() == ["True", "False", "<class", "'moleflow.utils.errors.UserError'>", "False"]
    for name in moleflow.__all__:
        assert getattr(moleflow, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        moleflow.nonsense  # noqa: B018


def test_the_function_report_remains_after_commands(small_run: SmallRun, tmp_path: Path) -> None:
    code = (
        "import moleflow, sys; from moleflow.cli.command import main\n"
        f"main(['report', {str(small_run.folder)!r}, '-o', {str(tmp_path)!r}]); print(callable(moleflow.report))"
    )
    process = run_command("-c", code)
    assert process.returncode == 0, process.stderr
    assert process.stdout.endswith("True\n")
