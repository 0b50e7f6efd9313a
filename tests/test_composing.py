"""The program without its command line."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict

from helpers.program import run_command
from moleflow import composing
from moleflow.composing import composed
from moleflow.errors import UserError

OVERRIDES = ("+experiment=quickstart", "seed=3", "+per_category.screw.epochs=5")


def test_a_configuration_is_that_of_the_command_line() -> None:
    config = composed(OVERRIDES)
    with open_dict(config):
        del config["hydra"]
    assert run_command("train.py", *OVERRIDES, "--cfg", "job").stdout.strip() == OmegaConf.to_yaml(config).strip()


def test_without_a_config_folder_it_is_told_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composing, "__file__", str(tmp_path / "site/packages/moleflow/composing.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train\.py"):
        composed(())
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text("seed: 7")
    assert composed(()).seed == 7
