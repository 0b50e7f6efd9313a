"""Tests of the callback that creates output folders."""

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from helpers.program import TINY
from moleflow.experiment.compose import ReportedExit, compose_config
from moleflow.experiment.output_dir import OutputDirCallback


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_folder_that_cannot_be_created_is_one_message(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    config = compose_config(["dataset=folder", "dataset.root=unused", *TINY, f"{key}={folder}"])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    callback = OutputDirCallback()
    start = callback.on_run_start if key == "hydra.run.dir" else callback.on_multirun_start
    with pytest.raises(ReportedExit) as error:
        start(config)
    assert error.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith(f"{key}={folder} cannot be created: Not a directory.")
    assert f"Choose another folder with {key}=" in message


def test_folders_are_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    places = [f"hydra.run.dir={tmp_path / 'a/b'}", f"hydra.sweep.dir={tmp_path / 'c/d'}"]
    config = compose_config(["dataset=folder", "dataset.root=unused", *TINY, *places])
    OutputDirCallback().on_run_start(config)
    OutputDirCallback().on_multirun_start(config)
    assert (tmp_path / "a/b").is_dir()
    assert not list((tmp_path / "c/d").iterdir())
