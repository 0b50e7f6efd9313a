"""Tests of the wheel: it has the configuration, and its command works in an empty folder."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import moleflow
from helpers.program import CONF, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))))


def test_wheel_has_all_configuration_files_and_the_type_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"moleflow/conf/{path.relative_to(CONF).as_posix()}" for path in CONF.rglob("*.yaml")} <= names
    assert "moleflow/py.typed" in names
    assert wheel.name.startswith(f"moleflow-{moleflow.__version__}-")


def test_commands_of_the_wheel_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    package, folder = tmp_path / "site-packages", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(package)
    folder.mkdir()
    outputs = []
    for path in (package, ROOT / "src"):
        command = [sys.executable, "-m", "moleflow", "train", "+experiment=quickstart", "--cfg", "job"]
        environment = os.environ | {"PYTHONPATH": str(path)}
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        outputs.append(process.stdout)
    assert outputs[0] == outputs[1]
    assert "\nname: quickstart\n" in outputs[0]
    assert not list(folder.iterdir())


def test_extras_include_each_other_by_existing_names() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for requirements in extras.values():
        for requirement in requirements:
            if requirement.startswith("moleflow["):
                assert set(requirement[len("moleflow[") : -1].split(",")) <= extras.keys()
