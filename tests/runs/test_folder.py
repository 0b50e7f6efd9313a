"""The run folder: what counts as another configuration, and what is done about it."""

import logging
from pathlib import Path

import pytest

from moleflow.runs.folder import RESULTS, RunFolder, data_changes
from moleflow.training.state import TaskCheckpoints
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_checksummed_json

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
    assert "epochs changes from 3 to 5" in caplog.text
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


FILES = {"bottle": {"train": {"bottle/train/good/0.png": "a", "bottle/train/good/1.png": "b"}, "test": {"t.png": "c"}}}
OTHER_FILES = {
    "bottle": {"train": {"bottle/train/good/0.png": "x", "bottle/train/good/2.png": "b"}, "test": {"t.png": "c"}},
    "screw": {"train": {"screw/train/good/0.png": "a"}},
}
CHANGES = [
    "bottle, train: 1 added (such as bottle/train/good/2.png), 1 removed (such as bottle/train/good/1.png), "
    "1 changed (such as bottle/train/good/0.png)",
    "screw, train: 1 added (such as screw/train/good/0.png)",
]


def begun(path: Path) -> RunFolder:
    folder = RunFolder(path, CONFIG)
    folder.claim_data(FILES, force=False)
    (path / "state").mkdir()
    return folder


def test_changes_of_the_data_are_counted_with_an_example() -> None:
    assert data_changes(FILES, FILES) == []
    assert data_changes(FILES, OTHER_FILES) == CHANGES


def test_unchanged_data_continue(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    before = (tmp_path / "data.json").read_bytes()
    folder.claim_data(FILES, force=False)
    folder.set_status("finished")
    folder.claim_data(FILES, force=False)
    assert (tmp_path / "data.json").read_bytes() == before


def test_changed_data_are_an_error_with_counts_and_remedies(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    with pytest.raises(UserError) as raised:
        folder.claim_data(OTHER_FILES, force=False)
    assert str(raised.value) == (
        f"The data have changed since the run in {tmp_path}:\n  {CHANGES[0]}\n  {CHANGES[1]}\nRestore the files, name "
        "this run with name=..., or choose a new folder with hydra.run.dir=..., or continue in this one with "
        "resume=force."
    )
    assert read_checksummed_json(tmp_path / "data.json") == {"files": FILES}


def test_forced_run_continues_with_the_changed_data_and_without_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = begun(tmp_path)
    checkpoints = TaskCheckpoints(tmp_path / "state", 0)
    checkpoints.add(0, lambda path: path.write_text("weights of other data") and None)
    with caplog.at_level(logging.WARNING):
        folder.claim_data(OTHER_FILES, force=True)
    assert f"resume=force: {CHANGES[1]}." in caplog.text
    assert checkpoints.latest() is None
    folder.claim_data(OTHER_FILES, force=False)


def test_changed_data_of_a_finished_run_are_an_error_in_any_case(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    for name in RESULTS:
        (tmp_path / name).write_text("{}")
    folder.set_status("finished")
    with pytest.raises(UserError, match=r"since the finished run in [\s\S]*, or choose a new folder with \S+$"):
        folder.claim_data(OTHER_FILES, force=True)


def test_data_are_not_compared_before_a_run_has_begun(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG).claim_data(FILES, force=False)
    RunFolder(tmp_path, CONFIG).claim_data(OTHER_FILES, force=False)
    assert read_checksummed_json(tmp_path / "data.json") == {"files": OTHER_FILES}
    RunFolder(tmp_path, CONFIG).discard()
    assert not (tmp_path / "data.json").exists()


@pytest.mark.parametrize("content", [None, "{", '{"files": {}}'])
def test_damaged_record_of_the_data_is_a_warning(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = begun(tmp_path)
    path = tmp_path / "data.json"
    path.unlink() if content is None else path.write_text(content)
    folder.claim_data(OTHER_FILES, force=False)
    assert "data.json" in caplog.text
    assert "not compared" in caplog.text
    assert read_checksummed_json(path) == {"files": OTHER_FILES}
