"""Runs the whole program: in this process where its result matters, as a command where its messages do."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from moleflow.cli import register_resolvers

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"

TINY = (
    "backbone=resnet18",
    "backbone.pretrained=false",
    "backbone.dim=16",
    "transform.size=64",
    "model.coupling_layers=2",
    "model.lora_rank=2",
    "scoring.top_k=2",
    "trainer=cpu",
    "epochs=2",
    "batch_size=4",
    "progress=false",
    "features.cache_dir=null",
)
"""Overrides that make any configuration run in seconds: an 8 x 8 grid of 16 random features."""


def composed(overrides: Sequence[str], folder: Path) -> DictConfig:
    """Return the config of a command line, as Hydra would hand it to the program."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*overrides, f"hydra.run.dir={folder}"], return_hydra_config=True)
    GlobalHydra.instance().clear()
    with open_dict(config):
        config.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(config)
    OmegaConf.set_readonly(config.hydra, None)
    with open_dict(config):
        del config["hydra"]
    return config


def run_program(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run one configuration in this process and return the content of ``metrics.json``."""
    from moleflow.training.run import run

    return run(composed(overrides, folder))


def run_command(*arguments: str, cwd: Path = ROOT, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run ``python`` with arguments as a user would, on one thread."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
