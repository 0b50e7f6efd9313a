"""Every experiment trains: one step on a tiny tree, with a tiny backbone, at its own depth and loss."""

import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers.composing import CONF, once
from helpers.trees import write_mvtec_tree
from moleflow.experiment.build import build_continual_trainer
from moleflow.experiment.execution import finish_run

NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overridden = ["screw", "grid", "zipper", "capsule", "macaroni1", "macaroni2", "pcb2", "candle"]
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ["bottle", *overridden], train=2, good=1, defect=1)


def tiny(config: dict[str, Any], tree: Path) -> dict[str, Any]:
    """Return the configuration with a small backbone, small images and a single step, otherwise unchanged."""
    categories = list(config["per_category"]) or ["bottle"]
    folder_data = "moleflow.data.datamodule.FolderDataModule"
    config["dataset"] = {"_target_": folder_data, "root": str(tree), "categories": categories}
    for overrides in config["per_category"].values():
        overrides |= {"epochs": 1} if "epochs" in overrides else {}
        overrides |= {"transform": {"size": 96}} if "transform" in overrides else {}
    for feature_set in (config, *config["feature_sets"].values()):
        feature_set["backbone"] |= {"name": "test_resnet", "layers": ["layer2", "layer3"], "dim": 16, "join": "pooled"}
        feature_set["backbone"] |= {"pretrained": False, "weights": None}
        feature_set["model"]["dim"] = 16
    if "lora_rank" in config["model"]:
        config["model"]["lora_rank"] = min(config["model"]["lora_rank"], 2)
    config["transform"]["size"] = config["scoring"]["map_size"] = 64
    config["trainer"]["accelerator"] = "cpu"
    config["features"] |= {"cache_dir": str(tree.parent / "cache"), "batch_size": 1}
    return config | {"epochs": 1, "batch_size": 2, "progress": False, "logger": {}, "callbacks": {}}


@pytest.mark.parametrize("name", NAMES)
def test_experiment_trains_one_step_per_category(name: str, tree: Path, tmp_path: Path) -> None:
    config = tiny(once(f"+experiment={name}"), tree)
    trainer = build_continual_trainer(OmegaConf.create(config), config, tmp_path, [])
    metrics = finish_run(trainer.context, trainer.run(), time.time())
    assert metrics["status"] == "finished"
    is_flow = config["model"]["_target_"].startswith("moleflow.models.flow.")
    assert metrics["training"]["steps"] == (len(metrics["per_category"]) if is_flow else 0)
    assert metrics["image_auroc"] is not None
    assert (tmp_path / "metrics.json").is_file()
