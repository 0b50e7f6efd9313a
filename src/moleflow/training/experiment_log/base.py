"""Log of a run: scalars in any Lightning logger; subclasses add images, tables, results and the model."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from PIL import Image

from moleflow.training.lightning_module import epoch_log_entry
from moleflow.utils.config import flatten_config
from moleflow.utils.io import write_text

RUN_ID_FILE = "run_id.txt"
"""File of a run folder with the random id of the run in all logs."""

Scalar = str | float | None
LogImage = Path | Image.Image
"""An image file, or an image in memory."""


@dataclass(frozen=True)
class Table:
    """A table of a log.

    Attributes:
        columns: Titles of the columns.
        rows: Cells of each row, one per column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Scalar]]


class ExperimentLog:
    """Log of a run in one Lightning logger, which gets scalars and the configuration only.

    Args:
        logger: The Lightning logger.

    Attributes:
        has_media: Whether the log stores images, tables, results and models, so that they have to be computed.
        settings: The resolved configuration of the run.
    """

    has_media = False

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self.settings: dict[str, Any] = {}

    def begin(self, settings: dict[str, Any]) -> None:
        """Log the configuration of the run.

        Args:
            settings: The resolved configuration.
        """
        self.settings = settings
        self.logger.log_hyperparams(settings)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log scalars and write them to disk.

        Args:
            values: Scalars by key.
            step: Position on the step axis, which never decreases.
        """
        self.logger.log_metrics(dict(values), step=step)
        self.logger.save()

    def log_images(self, images: Mapping[str, LogImage], step: int) -> None:
        """Log images by key."""

    def log_tables(self, tables: Mapping[str, Table], step: int) -> None:
        """Log tables by key."""

    def log_results(self, metrics: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """Log the results of a finished run.

        Args:
            metrics: Content of ``metrics.json`` in JSON's types.
            scalars: The final and best values, which have been logged as scalars.
        """

    def log_model(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Log the model folder of a finished run.

        Args:
            folder: The model folder.
            metrics: Content of ``metrics.json``.
        """

    def finish(self, status: str) -> None:
        """Close the log.

        Args:
            status: ``success``, ``failed``, ``interrupted`` or, of a trial of a search, ``pruned``.
        """
        self.logger.finalize(status)


def run_id(folder: Path) -> str:
    """Return the random id of a run, which is written into its folder at the first call.

    The id is independent of the path: it remains if the run is resumed or its folder is moved, and runs of the same
    path on different machines have different ids.

    Args:
        folder: The run folder.
    """
    path = folder / RUN_ID_FILE
    text = path.read_text(errors="replace").strip() if path.is_file() else ""
    if len(text) >= 8 and text.isascii() and text.replace("-", "").replace("_", "").isalnum():
        return text
    return write_run_id(folder, secrets.token_hex(8))


def write_run_id(folder: Path, value: str) -> str:
    """Write the id of a run into its folder, and return it.

    Args:
        folder: The run folder.
        value: The id.
    """
    write_text(folder / RUN_ID_FILE, f"{value}\n")
    return value


def nested_value(metrics: Mapping[str, Any], key: str) -> float | None:
    """Return the value of a dotted key of ``metrics.json``; None if there is none.

    Args:
        metrics: The content.
        key: The key, such as ``oracle.pixel_ap``.
    """
    value = flatten_config(metrics).get(key)
    return float(value) if isinstance(value, int | float) else None


def log_history(
    logs: Sequence[ExperimentLog], task: int, history: Sequence[dict[str, float]], previous_steps: int, steps: int
) -> None:
    """Log the epochs of a task that another process trained, as Lightning logs those of this process.

    Args:
        logs: The logs of the run.
        task: Index of the task.
        history: The task's epochs.
        previous_steps: Optimizer steps of all earlier tasks.
        steps: Optimizer steps of the task, equally many per epoch.
    """
    for i, epoch in enumerate(history):
        entry = {key: _to_float32(value) for key, value in epoch_log_entry(task, epoch).items()}
        for log in logs:
            log.log_metrics(entry, previous_steps + steps * (i + 1) // len(history))


def _to_float32(value: float) -> float:
    """Return a value rounded to single precision, as Lightning logs it."""
    return float(torch.tensor(value, dtype=torch.float32))
