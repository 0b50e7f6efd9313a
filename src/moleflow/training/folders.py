"""The folder that Hydra makes before anything of ours runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from moleflow.cli import Told


class FolderMaker(Callback):
    """Makes the folder of a run or a sweep a moment before Hydra does, whose message would be a traceback.

    The folder of a single job of a sweep is made by Hydra alone: no callback comes before that.

    Raises:
        Told: If the folder cannot be made or written to; what failed and the remedy have been printed.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the run folder."""
        HydraConfig.instance().set_config(config)  # the folder's name is made of the overrides, which Hydra sets later
        with _told(config.hydra.run.dir, "made", "hydra.run.dir"):
            Path(config.hydra.run.dir).mkdir(parents=True, exist_ok=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the sweep's folder, which Hydra writes to at once; a run's may be finished and read-only."""
        folder = config.hydra.sweep.dir
        with _told(folder, "made", "hydra.sweep.dir"):
            Path(folder).mkdir(parents=True, exist_ok=True)
        with _told(folder, "written to", "hydra.sweep.dir"), TemporaryFile(dir=folder):
            pass


@contextmanager
def _told(folder: str, what: str, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fault = f"The folder {folder} cannot be {what}: {error.strerror or error}."
        print(f"{fault} Choose another one: {key}=/path/to/folder.", file=sys.stderr)
        raise Told(1) from None  # Hydra turns any Exception of a callback into a warning and goes on
