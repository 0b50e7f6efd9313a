"""The run folder: what counts as another configuration, and what is done about it."""

import logging
from pathlib import Path

import pytest

from moleflow.runs.folder import RunFolder
from moleflow.training.state import TaskCheckpoints
from moleflow.utils.errors import UserError

CONFIG = {"epochs": 3, "optimizer": {"lr": 0.1}, "trainer": {"devices": 1, "precision": "32-true"}, "resume": "auto"}


def test_the_same_configuration_may_go_on(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG).claim(force=False)
    elsewhere = CONFIG | {"trainer": {"devices": 4, "precision": "32-true"}, "resume": "force"}
    RunFolder(tmp_path, elsewhere).claim(force=False)


def test_a_difference_is_shown_key_by_key_with_both_ways_on(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG).claim(force=False)
    before = (tmp_path / "config.yaml").read_bytes()
    other = CONFIG | {"optimizer": {"lr": 0.2, "clip": 1}, "trainer": {"devices": 1, "precision": "bf16"}}
    with pytest.raises(UserError) as raised:
        RunFolder(tmp_path, other).claim(force=False)
    message = str(raised.value)
    assert "optimizer.lr: 0.1 there, 0.2 now" in message
    assert "optimizer.clip: '(absent)' there, 1 now" in message
    assert "trainer.precision: '32-true' there, 'bf16' now" in message
    assert "epochs" not in message
    assert "hydra.run.dir" in message
    assert "resume=force" in message
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_force_goes_on_with_a_warning_and_without_the_old_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RunFolder(tmp_path, CONFIG).claim(force=False)
    checkpoints = TaskCheckpoints(tmp_path / "state", 0)
    checkpoints.add(0, lambda path: path.write_text("weights of another configuration") and None)
    with caplog.at_level(logging.WARNING):
        RunFolder(tmp_path, CONFIG | {"epochs": 5}).claim(force=True)
    assert "epochs was 3, is 5" in caplog.text
    assert checkpoints.latest() is None


def test_a_finished_run_is_never_relabelled(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    folder.claim(force=False)
    folder.set_status("finished")
    with pytest.raises(UserError, match="finished run of another"):
        RunFolder(tmp_path, CONFIG | {"epochs": 5}).claim(force=True)


@pytest.mark.parametrize("content", [None, "a: [", "\x00", "3", "epochs: 3"])
def test_a_lost_configuration_is_not_guessed(tmp_path: Path, content: str | None) -> None:
    RunFolder(tmp_path, CONFIG).claim(force=False)
    (tmp_path / "state").mkdir()
    path = tmp_path / "config.yaml"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match="another configuration"):
        RunFolder(tmp_path, CONFIG).claim(force=False)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    for name in (".metrics.json.x.tmp", "state/.progress.json.y.tmp"):
        (tmp_path / name).write_text("half")
    with RunFolder(tmp_path, CONFIG).locked():
        assert not list(tmp_path.rglob("*.tmp"))


def test_the_newest_whole_checkpoint_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = TaskCheckpoints(tmp_path, 1)
    checkpoints.add(0, lambda path: path.write_text("zero") and None)
    (older,) = tmp_path.glob("task1-*")
    kept = older.read_bytes()
    checkpoints.add(1, lambda path: path.write_text("one") and None)
    assert not older.exists()
    older.write_bytes(kept)  # as if killed before its removal
    newest = checkpoints.latest()
    assert newest is not None
    assert newest.read_text() == "one"
    newest.write_text("onf")
    assert checkpoints.latest() == older
    assert str(newest) in caplog.text
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []
    TaskCheckpoints(tmp_path, 11).add(0, lambda path: path.write_text("other task") and None)
    assert checkpoints.latest() is None


def test_a_rejected_command_removes_its_own_files_only(tmp_path: Path) -> None:
    path = tmp_path / "default" / "default" / "seed0"
    for name in ("mine.txt", "results/old.csv"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("of the user")
    folder = RunFolder(path, CONFIG | {"name": "default"})
    with folder.locked():
        folder.claim(force=False)
        (path / "train.log").write_text("a warning")
        (path / "logs/version_0").mkdir(parents=True)
        folder.discard()
    assert sorted(str(file.relative_to(path)) for file in path.rglob("*")) == ["mine.txt", "results", "results/old.csv"]


def test_a_rejected_command_leaves_no_empty_folder(tmp_path: Path) -> None:
    path = tmp_path / "default" / "default" / "seed0"
    folder = RunFolder(path, CONFIG | {"name": "default"})
    with folder.locked():
        folder.claim(force=False)
        (path / "train.log").write_text("a warning")
        folder.discard()
    assert not list(tmp_path.iterdir())
