"""Loggers of a run: Weights & Biases without prompts, and the history of parallel tasks."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from moleflow.training.lightning_module import epoch_log_entry

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
    """Return a W&B logger whose run id is derived from the run folder, so that resumed runs continue it.

    Without an account (no ``WANDB_API_KEY``, no login on this machine) the run is logged offline below ``save_dir``
    and can be uploaded later with ``wandb sync``. There is no prompt.

    Args:
        save_dir: The run folder.
        name: Name of the run.
        group: W&B group: the experiment.
        job_type: W&B job type: the seed.
        project: W&B project.
        entity: W&B user or team; None is the account's default.
        tags: W&B tags.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        mode = "online" if wandb.api.api_key else "offline"
        if mode == "offline":
            log.warning(
                "This machine has no W&B account. The run is logged offline; upload it with `wandb sync %s`.",
                Path(save_dir) / "wandb" / "offline-run-*",
            )
    run_id = hashlib.sha256(str(Path(save_dir).resolve()).encode()).hexdigest()[:16]
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        dir=save_dir,
        id=run_id,
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
    """Close all loggers with the status of the run.

    Args:
        loggers: Lightning loggers.
        status: ``success``, ``failed``, ``interrupted`` or ``pruned``.
    """
    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=0 if status in ("success", "pruned") else 1)


def log_history(
    loggers: Sequence[Logger], task: int, history: Sequence[dict[str, float]], previous_steps: int, steps: int
) -> None:
    """Log the epochs of a task that another process trained, as Lightning logs those of this process.

    Args:
        loggers: Lightning loggers.
        task: Index of the task.
        history: The task's epochs.
        previous_steps: Optimizer steps of all earlier tasks.
        steps: Optimizer steps of the task, equally many per epoch.
    """
    for i, epoch in enumerate(history):
        entry = {key: _to_float32(value) for key, value in epoch_log_entry(task, epoch).items()}
        for logger in loggers:
            logger.log_metrics(entry, step=previous_steps + steps * (i + 1) // len(history))
            logger.save()


def _to_float32(value: float) -> float:
    """Return a value rounded to single precision, as Lightning logs it."""
    return float(torch.tensor(value, dtype=torch.float32))
