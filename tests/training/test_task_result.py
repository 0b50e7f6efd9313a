"""Tests of the results of tasks that other processes train."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.detectors import fit_detector, normal_images, small_settings
from helpers.trees import write_mvtec_tree
from moleflow.detector.detector import MoLEFlow
from moleflow.training.task_result import StoredTaskResult, TaskResult

RESULT = TaskResult(steps=12, skipped_steps=1, history=[{"epoch": 0.0, "loss": 0.1}, {"epoch": 1.0, "loss": -3.0}])
HOLD_LOCK = """
import fcntl, pathlib, sys, time
with open(sys.argv[1], "a+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    time.sleep(0.5)
    pathlib.Path(sys.argv[2]).touch()
"""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> MoLEFlow:
    return fit_detector(write_mvtec_tree(tmp_path_factory.mktemp("tree")))


def test_round_trip(detector: MoLEFlow, tmp_path: Path) -> None:
    stored = StoredTaskResult(tmp_path, 3)
    assert not stored.is_complete()
    assert stored.load_into(detector) is None
    detector.experts["screw"].overrides = {"epochs": 3}
    stored.write(detector, ["screw"], RESULT)
    assert (tmp_path / "task3" / "result.json").is_file()
    assert StoredTaskResult(tmp_path, 3).is_complete()
    model = MoLEFlow(small_settings())
    assert stored.load_into(model) == RESULT
    assert list(model.experts) == model.router.names == ["screw"]
    assert model.experts["screw"].overrides == {"epochs": 3}
    for key, value in detector.expert_state("screw").items():
        assert torch.equal(model.expert_state("screw")[key], value)
    stored.clear()
    assert not list(tmp_path.iterdir())


def test_loaded_expert_scores_like_the_stored_one(detector: MoLEFlow, tmp_path: Path) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ["screw"], train=0)
    StoredTaskResult(tmp_path, 1).write(detector, ["screw"], RESULT)
    model = MoLEFlow(small_settings())
    StoredTaskResult(tmp_path, 1).load_into(model)
    paths = normal_images(tree, "screw")
    expected = detector.score(paths, expert="screw")
    assert [image.score for image in model.score(paths)] == [image.score for image in expected]


@pytest.mark.parametrize("name", ["result.json", "manifest.json", "experts/screw.safetensors"])
def test_damaged_result_is_incomplete_with_a_warning(
    name: str, detector: MoLEFlow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = StoredTaskResult(tmp_path, 1)
    stored.write(detector, ["screw"], RESULT)
    path = stored.folder / name
    path.write_bytes(path.read_bytes()[:-10])
    assert not stored.is_complete()
    assert str(path) in caplog.text
    assert "is trained again" in caplog.text
    model = MoLEFlow(small_settings())
    assert stored.load_into(model) is None
    assert not model.experts


def test_lock_waits_for_another_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = StoredTaskResult(tmp_path, 3)
    with caplog.at_level("INFO"), stored.locked():
        pass
    assert "Waiting" not in caplog.text
    released = tmp_path / "released"
    arguments = [sys.executable, "-c", HOLD_LOCK, str(stored.folder / ".lock"), str(released)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        assert not released.exists()
        with caplog.at_level("INFO"), stored.locked():
            assert released.exists()
    assert "task3: another process trains this task. Waiting for it." in caplog.text
