"""Tests of epoch checkpoints and of the state of continual strategies."""

from pathlib import Path

import pytest
import torch

from moleflow.training.state import (
    TaskCheckpoints,
    load_strategy_state,
    num_values,
    prune_strategy_state,
    save_strategy_state,
)
from moleflow.utils.errors import UserError

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(4)}


def add(checkpoints: TaskCheckpoints, epoch: int, text: str) -> None:
    def write(path: Path) -> None:
        path.write_text(text)

    checkpoints.add(epoch, write)


def test_latest_checkpoint_is_the_newest_undamaged_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = TaskCheckpoints(tmp_path, 1)
    assert checkpoints.latest() is None
    add(checkpoints, 0, "zero")
    (older,) = tmp_path.glob("task1-*")
    content = older.read_bytes()
    add(checkpoints, 1, "one")
    assert not older.exists()
    older.write_bytes(content)  # as after a kill before its removal
    newest = checkpoints.latest()
    assert newest is not None
    assert newest.read_text() == "one"
    newest.write_text("onf")
    assert checkpoints.latest() == older
    assert f"{newest} is damaged" in caplog.text
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_other_tasks_are_separate(tmp_path: Path) -> None:
    add(TaskCheckpoints(tmp_path, 11), 0, "eleven")
    assert TaskCheckpoints(tmp_path, 1).latest() is None
    TaskCheckpoints(tmp_path, 1).clear()
    assert TaskCheckpoints(tmp_path, 11).latest() is not None


def test_failed_write_keeps_the_older_checkpoint(tmp_path: Path) -> None:
    checkpoints = TaskCheckpoints(tmp_path, 0)
    add(checkpoints, 0, "zero")
    before = checkpoints.latest()

    def write(path: Path) -> None:
        raise RuntimeError("failed writing file: No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        checkpoints.add(1, write)
    assert checkpoints.latest() == before
    assert list(tmp_path.iterdir()) == [before]


def test_strategy_state_round_trip(tmp_path: Path) -> None:
    assert save_strategy_state(tmp_path, 0, {}) is None
    assert load_strategy_state(tmp_path, None) == {}
    name = save_strategy_state(tmp_path, 3, TENSORS)
    assert name is not None
    assert name.startswith("strategy3-")
    loaded = load_strategy_state(tmp_path, name)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[key], value) for key, value in TENSORS.items())
    assert num_values(loaded) == 10


def test_former_strategy_states_remain_until_they_are_pruned(tmp_path: Path) -> None:
    first, second = (save_strategy_state(tmp_path, i, {"a": torch.full((2,), float(i))}) for i in range(2))
    assert {path.name for path in tmp_path.iterdir()} == {first, second}
    prune_strategy_state(tmp_path, second)
    assert {path.name for path in tmp_path.iterdir()} == {second}
    prune_strategy_state(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_damaged_strategy_state_is_an_error(damage: str, tmp_path: Path) -> None:
    name = save_strategy_state(tmp_path, 0, TENSORS)
    assert name is not None
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{name} is missing or damaged"):
        load_strategy_state(tmp_path, name)
