"""Hydra callback that creates output folders with clear error messages."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from moleflow.experiment.compose import ReportedExit, uncreatable_folder


class OutputDirCallback(Callback):
    """Creates the folder of a run or a sweep before Hydra does, whose error would be a traceback.

    The folder of a single job of a sweep is created by Hydra: no callback runs before that.

    Raises:
        ReportedExit: If the folder cannot be created or written to; the error has been printed.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create the run folder."""
        HydraConfig.instance().set_config(config)  # the folder's name contains the overrides, which Hydra sets later
        with _exit_on_os_error(config.hydra.run.dir, "created", "hydra.run.dir"):
            Path(config.hydra.run.dir).mkdir(parents=True, exist_ok=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create the sweep's folder and check that it is writable; that of a finished run may be read-only."""
        folder = config.hydra.sweep.dir
        with _exit_on_os_error(folder, "created", "hydra.sweep.dir"):
            Path(folder).mkdir(parents=True, exist_ok=True)
        with _exit_on_os_error(folder, "written to", "hydra.sweep.dir"), TemporaryFile(dir=folder):
            pass


@contextmanager
def _exit_on_os_error(folder: str, action: str, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        print(uncreatable_folder(key, folder, action, error), file=sys.stderr)
        raise ReportedExit(1) from None  # Hydra turns an Exception of a callback into a warning and continues
