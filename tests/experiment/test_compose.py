"""Tests of composing configurations without the command line."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict

from helpers.program import run_command
from moleflow.experiment.compose import compose_config, expand_datasets
from moleflow.utils.errors import UserError

OVERRIDES = ("+experiment=quickstart", "seed=3", "+per_category.screw.epochs=5")


def test_composed_config_equals_that_of_the_command_line() -> None:
    config = compose_config(OVERRIDES)
    with open_dict(config):
        del config["hydra"]
    assert run_command("train.py", *OVERRIDES, "--cfg", "job").stdout.strip() == OmegaConf.to_yaml(config).strip()


def test_options_of_the_working_folder_are_composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf/loss").mkdir(parents=True)
    (tmp_path / "conf/loss/mine.yaml").write_text("defaults: [tail]\ntail_weight: 0.4\n")
    monkeypatch.chdir(tmp_path)
    loss = compose_config(["loss=mine"]).loss
    assert (loss.tail_weight, loss.tail_top_k_ratio) == (0.4, 0.02)


def test_a_list_of_data_sets_becomes_a_mixed_one() -> None:
    config = compose_config(["dataset=[mvtec,visa]", "dataset.parts.visa.root=/data/VisA", "dataset.shots=4"])
    assert config.dataset._target_.endswith("MixedDataModule")
    assert list(config.dataset.parts) == ["mvtec", "visa"]
    assert config.dataset.parts.visa.root == "/data/VisA"
    assert config.dataset.shots == 4
    assert expand_datasets(["seed=1", "dataset=visa"]) == ["seed=1", "dataset=visa"]
    with pytest.raises(UserError, match="must have each data set once"):
        expand_datasets(["dataset=[mvtec,mvtec]"])
