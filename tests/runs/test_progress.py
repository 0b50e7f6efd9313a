"""Tests of the progress file of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from moleflow.runs.progress import Progress
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_checksummed_json, write_checksummed_json


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks_done": -1}, "tasks_done is -1 and must be a whole number"),
        ({"tasks_done": 3}, r"tasks_done is 3, but the lists have \[1, 1, 1\] entries"),
        ({"matrix": {"pixel_ap": [[0.5, 0.5]]}}, "not lower triangles"),
        ({"matrix": 3}, "matrix is 3 and must be a mapping of metrics"),
        ({"seconds": {"training": "x"}}, "seconds is .* must be a mapping of features, training, evaluation"),
        ({"histories": [3]}, "histories is .* must be a list of epochs"),
        ({"strategy_state": "../strategy0-12.safetensors"}, "must be null or the name of a file"),
        ({"surplus": 1}, "surplus is 1 and must be one of"),
    ],
)
def test_entries_that_are_not_allowed_are_errors(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    progress = Progress(tasks_done=1, step=12, skipped_steps=[1], histories=[[{"epoch": 0.0, "loss": 0.1}]])
    progress.matrix.add(0, {"a": {"pixel_ap": 0.25}}, [("a",)])
    path = tmp_path / "progress.json"
    progress.write(path)
    write_checksummed_json(path, read_checksummed_json(path) | change)
    with pytest.raises(UserError, match=rf"progress\.json is damaged: .*{message}"):
        Progress.read(path)


def test_every_task_has_its_own_step_in_the_logs() -> None:
    epochs = [{"epoch": 0.0, "loss": 0.1}]
    assert Progress(step=12, histories=[epochs, epochs]).log_step == 12
    assert [Progress(histories=[[]] * tasks).log_step for tasks in (1, 2)] == [1, 2]  # fitted in closed form
