"""Loggers: Weights & Biases as one run, never with a question."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

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
                "No W&B account on this machine: logging offline. Send it later with `wandb sync %s`.", save_dir
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
