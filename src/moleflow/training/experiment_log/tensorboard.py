"""Log of a run in TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from moleflow.training.experiment_log.base import ExperimentLog, LogImage, Table
from moleflow.utils.errors import UserError


class TensorBoardLog(ExperimentLog):
    """Log of a run as event files in the folder ``tensorboard`` of the run folder.

    A resumed run adds an event file. Models are not logged, because TensorBoard has no artifacts.

    Args:
        folder: The run folder.

    Raises:
        UserError: If the package ``tensorboard`` is not installed.
    """

    has_media = True

    def __init__(self, folder: str) -> None:
        try:
            logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=tensorboard needs a package that is not installed. Run: pip install 'moleflow[tensorboard]'"
            ) from error
        super().__init__(logger)
        self._logger = logger

    def begin(self, settings: dict[str, Any]) -> None:
        """Log the configuration, and its description as a text."""
        super().begin(settings)
        if settings["description"]:
            self._logger.experiment.add_text("description", settings["description"], 0)

    def log_images(self, images: Mapping[str, LogImage], step: int) -> None:
        """Log images by key."""
        for key, image in images.items():
            self._logger.experiment.add_image(key, _pixels(image), step, dataformats="HWC")

    def log_tables(self, tables: Mapping[str, Table], step: int) -> None:
        """Log tables as texts in Markdown."""
        for key, table in tables.items():
            self._logger.experiment.add_text(key, markdown(table), step)

    def log_results(self, metrics: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """Log the results as the metrics of the tab HPARAMS."""
        self._logger.log_hyperparams(self.settings, dict(scalars))


def markdown(table: Table) -> str:
    """Return a table in Markdown; values have four decimal places."""
    cells = [
        [f"{cell:.4f}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row]
        for row in table.rows
    ]
    lines = [list(table.columns), ["---"] * len(table.columns), *cells]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _pixels(image: LogImage) -> Any:
    """Return the pixels (H, W, 3) of an image."""
    if isinstance(image, Path):
        with Image.open(image) as file:
            return np.asarray(file.convert("RGB"))
    return np.asarray(image.convert("RGB"))
