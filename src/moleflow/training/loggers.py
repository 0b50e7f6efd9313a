"""Loggers: Weights & Biases as one run, never with a question."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from moleflow.files import plain
from moleflow.metrics import mean_over_categories
from moleflow.training.callbacks import RunCallback
from moleflow.training.module import epoch_line

if TYPE_CHECKING:
    from moleflow.training.sequence import TaskReport, TaskSequence

log = logging.getLogger(__name__)


def wandb_logger(
    save_dir: str,
    name: str,
    group: str,
    job_type: str,
    project: str = "moleflow",
    entity: str | None = None,
    tags: Sequence[str] = (),
) -> WandbLogger:
    """Return a W&B logger whose run has one id for ever: that of its run folder.

    Without an account (no ``WANDB_API_KEY``, no login on this machine) the run is kept offline below ``save_dir`` and
    can be sent later with ``wandb sync``. No question is asked.

    Args:
        save_dir: The run folder.
        name: Name of the run.
        group: W&B group: the experiment.
        job_type: W&B job type: the seed.
        project: W&B project.
        entity: W&B user or team; None takes the account's default.
        tags: W&B tags.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        mode = "online" if wandb.api.api_key else "offline"
        if mode == "offline":
            log.warning(
                "No W&B account on this machine: logging offline. Send it later with `wandb sync %s`.",
                Path(save_dir) / "wandb" / "offline-run-*",
            )
    identity = hashlib.sha256(str(Path(save_dir).resolve()).encode()).hexdigest()[:16]
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        dir=save_dir,
        id=identity,
        name=name,
        project=project,
        entity=entity,
        group=group,
        job_type=job_type,
        tags=list(tags),
        resume="allow" if mode == "online" else None,
        mode=mode,  # type: ignore[arg-type]
        settings=wandb.Settings(silent=True),
    )
    return WandbLogger(experiment=run)


def finish_loggers(loggers: Sequence[Logger], status: str) -> None:
    """Close all loggers with the run's true status.

    Args:
        loggers: Lightning loggers.
        status: ``success``, or ``failed`` for everything else.
    """
    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=0 if status == "success" else 1)


def log_history(
    loggers: Sequence[Logger], task: int, history: Sequence[dict[str, float]], before: int, steps: int
) -> None:
    """Log the epochs of a task that another process has learned, as Lightning would have logged them here.

    Args:
        loggers: Lightning loggers.
        task: Index of the task.
        history: The task's epochs.
        before: Optimizer steps of all earlier tasks.
        steps: Those of the task; every epoch has as many.
    """
    for i, epoch in enumerate(history):
        line = {key: _single(value) for key, value in epoch_line(task, epoch).items()}
        for logger in loggers:
            logger.log_metrics(line, step=before + steps * (i + 1) // len(history))
            logger.save()


def _single(value: float) -> float:
    """Return a value as Lightning logs it: through single precision."""
    return float(torch.tensor(value, dtype=torch.float32))


class WandbReport(RunCallback):
    """Sends what Lightning does not: metrics after each task, tables, pictures and the final summary.

    Everything is logged beside ``trainer/global_step``, the run's one step, which never goes back.

    Args:
        logger: The run's W&B logger.
    """

    def __init__(self, logger: WandbLogger) -> None:
        self.logger = logger

    def on_task_evaluated(self, run: "TaskSequence", report: "TaskReport") -> None:
        """Log the means over all categories seen so far, the task matrix and the categories' metrics."""
        results = {c: {**r.metrics, "routing_accuracy": r.routing_accuracy} for c, r in report.routed.items()}
        means = {f"task/{name}": value for name, value in mean_over_categories(results).items() if value is not None}
        self._log({"task/number": report.task.index + 1, **means}, report.step)
        names = [task.name for task in run.tasks]
        matrix = run.progress.matrix
        rows = [
            [name, after, on, value]
            for name in matrix.metrics
            for after, row in zip(names, matrix.matrix(name), strict=False)
            for on, value in zip(names, row, strict=False)
        ]
        self._log({"tables/task_matrix": wandb.Table(["metric", "after", "tested_on", "value"], rows)}, report.step)

    def on_run_complete(self, run: "TaskSequence", metrics: dict[str, Any]) -> None:
        """Log the last tables and pictures, and make the summary equal to ``metrics.json``."""
        columns = ["image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro", "routing_accuracy"]
        rows = [[c, *(values[name] for name in columns)] for c, values in plain(metrics["per_category"]).items()]
        counts = metrics["routing"]["counts"]
        routed = [[c, e, counts[c].get(e, 0)] for c in counts for e in metrics["routing"]["experts"]]
        content: dict[str, Any] = {
            "tables/categories": wandb.Table(["category", *columns], rows),
            "tables/routing": wandb.Table(["category", "routed_to", "pictures"], routed),
        }
        for path in sorted((run.folder / "pictures").glob("*.[jp][pn]g")):
            content[f"pictures/{path.stem}"] = wandb.Image(str(path))
        self._log(content, run.progress.step)
        summary = {key: value for key, value in plain(metrics).items() if key not in ("training", "task_matrix")}
        self.logger.experiment.summary.update(summary)

    def _log(self, content: dict[str, Any], step: int) -> None:
        self.logger.experiment.log({**content, "trainer/global_step": step})
