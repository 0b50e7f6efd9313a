"""Tests of the progress file of a run."""

import json
from pathlib import Path

import pytest

from moleflow.runs.progress import Progress
from moleflow.utils.errors import UserError


def test_round_trip(tmp_path: Path) -> None:
    progress = Progress(tasks_done=1, step=12, skipped_steps=[1], histories=[[{"epoch": 0.0, "loss": 0.1}]])
    progress.matrix.add(0, {"a": {"pixel_ap": 0.25}}, [("a",), ("b",)])
    progress.strategy_state, progress.strategy_values = "strategy0-12.safetensors", 3
    with progress.clock("training"):
        pass
    progress.write(tmp_path / "progress.json")
    loaded = Progress.read(tmp_path / "progress.json")
    assert loaded.matrix.to_dict() == progress.matrix.to_dict()
    assert vars(loaded) | {"matrix": None} == vars(progress) | {"matrix": None}
    assert loaded.seconds["training"] > 0
    assert loaded.seconds["features"] == 0


def test_missing_file_is_a_new_run_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert Progress.read(tmp_path / "progress.json").tasks_done == 0
    (tmp_path / "progress.json").write_text(json.dumps({"tasks_done": 3}))
    with pytest.raises(UserError, match=r"progress\.json is damaged"):
        Progress.read(tmp_path / "progress.json")


def test_every_task_has_its_own_step_in_the_logs() -> None:
    epochs = [{"epoch": 0.0, "loss": 0.1}]
    assert Progress(step=12, histories=[epochs, epochs]).log_step == 12
    assert [Progress(histories=[[]] * tasks).log_step for tasks in (1, 2)] == [1, 2]  # fitted in closed form
