"""Tests of the help of ``moleflow train``."""

from pathlib import Path

import pytest

from helpers.program import CONF
from moleflow.cli.train_help import config_dir, help_text, is_help


def test_help_lists_every_option_and_describes_every_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # one line per row
    lines = help_text().splitlines()
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    for path in CONF.rglob("*.yaml"):
        group = path.parent.relative_to(CONF).as_posix()
        if group in ("experiment", "ablation", "sweep"):
            assert len(rows[path.stem].split()) >= 2, path
        elif group not in (".", "experiment/group"):
            assert path.stem in rows[group].replace("[", "").replace("]", "").split(), path
    assert rows["quickstart"].startswith("Synthetic images")
    assert "[mvtec]" in rows["dataset"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = help_text().splitlines()[1:]
    long = [line for line in lines if len(line) > width and line.startswith("   ")]
    assert not long


def test_experiments_of_other_folders_have_their_own_list(tmp_path: Path) -> None:
    experiment = tmp_path / "experiment" / "mine.yaml"
    experiment.parent.mkdir()
    experiment.write_text("# Of a user.\nname: mine\n")
    text = help_text(["--help", f"--config-dir={tmp_path}"])
    assert f"experiments of {tmp_path} (+experiment=NAME):\n  mine  Of a user.\n" in text
    assert "  mine" not in help_text()


def test_options_of_the_command_line() -> None:
    assert is_help(["+experiment=quickstart", "--help"])
    assert not is_help(["seed=1", "--hydra-help"])
    assert config_dir(["seed=1", "--config-dir=a"]) == config_dir(["-cd", "a", "-m"]) == Path("a")
    assert config_dir(["--cfg", "job", "--config-dir"]) is None
