"""Tests of composing configurations without the command line."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict

from helpers.program import CONF, run_command
from moleflow.experiment import compose
from moleflow.experiment.compose import compose_config, expand_datasets, find_conf
from moleflow.utils.errors import UserError

OVERRIDES = ("+experiment=quickstart", "seed=3", "+per_category.screw.epochs=5")


def test_composed_config_equals_that_of_the_command_line() -> None:
    config = compose_config(OVERRIDES)
    with open_dict(config):
        del config["hydra"]
    assert run_command("train.py", *OVERRIDES, "--cfg", "job").stdout.strip() == OmegaConf.to_yaml(config).strip()


def test_conf_of_the_checkout_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_conf() == CONF


def test_without_a_checkout_conf_of_the_current_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "__file__", str(tmp_path / "lib/site-packages/moleflow/experiment/compose.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train\.py"):
        compose_config(())
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text("seed: 7")
    assert compose_config(()).seed == 7


def test_a_list_of_data_sets_becomes_a_mixed_one() -> None:
    config = compose_config(["dataset=[mvtec,visa]", "dataset.parts.visa.root=/data/VisA", "dataset.shots=4"])
    assert config.dataset._target_.endswith("MixedDataModule")
    assert list(config.dataset.parts) == ["mvtec", "visa"]
    assert config.dataset.parts.visa.root == "/data/VisA"
    assert config.dataset.shots == 4
    assert expand_datasets(["seed=1", "dataset=visa"]) == ["seed=1", "dataset=visa"]
    with pytest.raises(UserError, match="must have each data set once"):
        expand_datasets(["dataset=[mvtec,mvtec]"])
