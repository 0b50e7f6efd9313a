"""The folder that Hydra makes before anything of ours runs."""

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from moleflow.cli import Told


class FolderMaker(Callback):
    """Makes the folder of a run or a sweep a moment before Hydra does, whose message would be a traceback.

    Raises:
        Told: If the folder cannot be made; what failed and the remedy have been printed.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the run folder."""
        HydraConfig.instance().set_config(config)  # the folder's name is made of the overrides, which Hydra sets later
        _make(config.hydra.run.dir, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the sweep's folder."""
        _make(config.hydra.sweep.dir, "hydra.sweep.dir")


def _make(folder: str, key: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fault = f"The folder {folder} cannot be made: {error.strerror or error}."
        print(f"{fault} Choose another one: {key}=/path/to/folder.", file=sys.stderr)
        raise Told(1) from None  # Hydra turns any Exception of a callback into a warning and goes on
