"""Every experiment file trains: one step on a tiny tree, with a tiny backbone, at its own depth and loss."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers.composing import CONF, once
from helpers.trees import write_mvtec_tree
from moleflow.training.run import _run
from moleflow.training.run_folder import RunFolder

NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = [
        "screw",
        "grid",
        "zipper",
        "capsule",
        "macaroni1",
        "macaroni2",
        "pcb2",
        "candle",
    ]  # have settings of their own
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ["bottle", *own], train=2, good=1, defect=1)


def tiny(config: dict[str, Any], tree: Path) -> dict[str, Any]:
    """Return the configuration with what costs time made small, and all else as it is."""
    categories = list(config["per_category"]) or ["bottle"]
    config["dataset"] = {"_target_": "moleflow.data.FolderDataModule", "root": str(tree), "categories": categories}
    for own in config["per_category"].values():
        own |= {"epochs": 1} if "epochs" in own else {}
        own |= {"transform": {"size": 96}} if "transform" in own else {}
    config["backbone"] |= {
        "name": "resnet18",
        "layers": ["layer2", "layer3"],
        "dim": 16,
        "pretrained": False,
        "weights": None,
    }
    config["model"]["dim"] = 16
    if "lora_rank" in config["model"]:
        config["model"]["lora_rank"] = min(config["model"]["lora_rank"], 2)
    config["transform"]["size"] = config["scoring"]["map_size"] = 64
    config["trainer"]["accelerator"] = "cpu"
    config["features"] |= {"cache_dir": str(tree.parent / "cache"), "batch_size": 1}
    return config | {"epochs": 1, "batch_size": 2, "progress": False, "logger": {}, "callbacks": {}}


@pytest.mark.parametrize("name", NAMES)
def test_one_step(name: str, tree: Path, tmp_path: Path) -> None:
    config = tiny(once(f"+experiment={name}"), tree)
    metrics = _run(OmegaConf.create(config), config, RunFolder(tmp_path, config))
    assert metrics["status"] == "finished"
    trains = config["model"]["_target_"].startswith("moleflow.flow.")
    assert metrics["training"]["steps"] == (len(metrics["per_category"]) if trains else 0)
    assert metrics["image_auroc"] is not None
    assert (tmp_path / "metrics.json").is_file()
