"""Tests of the configuration folders and the descriptions of their files."""

from pathlib import Path

import pytest

from helpers.program import CONF
from moleflow.experiment import conf
from moleflow.experiment.conf import conf_folders, find_conf, group_options, read_description
from moleflow.utils.errors import UserError


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_conf_of_the_checkout_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_conf() == CONF
    assert conf_folders() == [CONF]
    monkeypatch.chdir(CONF.parent)
    assert conf_folders() == [CONF]


def test_conf_of_a_wheel_is_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "moleflow"
    monkeypatch.setattr(conf, "__file__", str(package / "experiment" / "conf.py"))
    with pytest.raises(UserError, match="Install moleflow again"):
        find_conf()
    write(package / "conf" / "config.yaml")
    assert find_conf() == package / "conf"


def test_own_folders_extend_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = write(tmp_path / "conf" / "model" / "mine.yaml")
    other = write(tmp_path / "other" / "model" / "other.yaml")
    monkeypatch.chdir(tmp_path)
    folders = conf_folders(tmp_path / "other")
    assert folders == [CONF, tmp_path / "conf", tmp_path / "other"]
    models = group_options(folders)["model"]
    assert (models["mine"], models["other"], models["padim"]) == (mine, other, CONF / "model" / "padim.yaml")
    assert list(models) == sorted(models)


def test_files_without_effect_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--config-dir=missing is not a folder"):
        conf_folders(Path("missing"))
    padim = write(tmp_path / "conf" / "model" / "padim.yaml", (CONF / "model" / "padim.yaml").read_text())
    assert len(conf_folders()) == 2  # a copy has the same effect
    write(padim, "channels: 3")
    with pytest.raises(UserError, match=r"padim.yaml has no effect: .*another folder\."):
        conf_folders()


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("# @package _global_\n# moleflow train +experiment=x\n#\n# One sentence. Another.\nname: x", "One sentence."),
        ("# Two lines\n# of version 1.5\nname: x\n# no comment at the start", "Two lines of version 1.5."),
        ("# A comment.\ndescription: >-\n  The key\n  description: it wins.\n", "The key description: it wins."),
        ("name: x\n# not at the start\n", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_description(text: str, description: str, tmp_path: Path) -> None:
    assert read_description(write(tmp_path / "x.yaml", text)) == description


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.yaml is not YAML"):
        read_description(write(tmp_path / "x.yaml", "a: [1"))
