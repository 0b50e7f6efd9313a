"""Tests of logs in any Lightning logger."""

from typing import Any

import torch
from lightning.pytorch.loggers import Logger

from moleflow.training.experiment_log.base import ExperimentLog, log_history


class RecordingLogger(Logger):
    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[dict[str, float], int | None]] = []
        self.status = ""

    @property
    def name(self) -> str:
        return "recording"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.entries.append((metrics, step))

    def finalize(self, status: str) -> None:
        self.status = status


def test_history_is_logged_in_single_precision_at_the_steps_of_the_run() -> None:
    logger = RecordingLogger()
    history = [{"epoch": 0.0, "loss": 0.1}, {"epoch": 1.0, "loss": 0.2}]
    log_history([ExperimentLog(logger)], 2, history, previous_steps=100, steps=6)
    losses = [float(torch.tensor(loss, dtype=torch.float32)) for loss in (0.1, 0.2)]
    assert logger.entries == [
        ({"train/task": 2.0, "train/loss": losses[0]}, 103),
        ({"train/task": 2.0, "train/loss": losses[1]}, 106),
    ]


def test_log_is_closed_with_the_status() -> None:
    logger = RecordingLogger()
    ExperimentLog(logger).finish("interrupted")
    assert logger.status == "interrupted"
