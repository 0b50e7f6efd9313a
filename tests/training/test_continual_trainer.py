"""Tests of the continual trainer: checks before training, and resumption after a kill between two files."""

from pathlib import Path
from typing import Any

import pytest

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.runs.progress import Progress
from moleflow.training.strategies.ewc import EWC
from moleflow.utils.errors import UserError


class Killed(BaseException):
    """End of a run that no ``except Exception`` of the program catches."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), ["bottle", "cable"], train=4, good=1, defect=1)


def command(root: Path, *overrides: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", *TINY, *overrides]


def test_strategy_without_effect_is_an_error_before_training(root: Path, tmp_path: Path) -> None:
    strategy = [f"continual._target_={EWC.__module__}.EWC", "+continual.weight=1"]
    with pytest.raises(UserError, match="no shared parameters are updated by this model"):
        run_program(command(root, *strategy), tmp_path)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("continual", ["experts", "finetune"])
def test_resumption_between_model_and_progress(
    continual: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base of ``finetune`` is changed by the second task, whose checkpoint is then required."""
    overrides = command(root, f"continual={continual}")
    write = Progress.write

    def write_or_stop(self: Progress, path: Path) -> None:
        if self.tasks_done == 2:
            raise Killed
        write(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "write", write_or_stop)
        with pytest.raises(Killed):
            run_program(overrides, tmp_path)
    for checkpoint in (tmp_path / "state").glob("*.ckpt"):
        checkpoint.unlink()
    if continual == "finetune":
        with pytest.raises(UserError, match=r"base in .*model was already changed by task 2"):
            run_program(overrides, tmp_path)
    else:
        metrics: dict[str, Any] = run_program(overrides, tmp_path)
        assert metrics["routing"]["experts"] == ["bottle", "cable"]
