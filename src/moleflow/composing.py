"""The program without its command line: its configuration, and a run of it in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from moleflow.cli import register_resolvers
from moleflow.errors import UserError


def find_conf() -> Path:
    """Return the config folder: that of the checkout, or one in the current folder.

    Raises:
        UserError: If there is none.
    """
    for folder in (Path(__file__).resolve().parents[2] / "conf", Path.cwd() / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError("There is no conf/ folder here. Run this in the project's folder, the one with train.py.")


def composed(overrides: Sequence[str], conf: Path | None = None) -> DictConfig:
    """Return the configuration that ``python train.py OVERRIDES`` composes, with Hydra's own part as ``hydra``.

    Args:
        overrides: As on the command line.
        conf: The config folder; None finds it.

    Raises:
        hydra.errors.HydraException: If it cannot be composed.
    """
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str((conf or find_conf()).resolve()), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def run_program(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Do in this process what ``python train.py OVERRIDES`` does; return the content of ``metrics.json``.

    Args:
        overrides: As on the command line.
        folder: The run folder.

    Raises:
        hydra.errors.HydraException: If the configuration cannot be composed.
        UserError: If something else is wrong that the user can mend.
    """
    from moleflow.training.run import run

    config = composed([*overrides, f"hydra.run.dir={folder}"])
    with open_dict(config):
        config.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(config)
        del config["hydra"]
    return run(config)
