"""The Lightning trainer that makes one task's gradient steps, and where it makes them."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from moleflow.errors import UserError, choice
from moleflow.training.instantiated import instantiated


def make_trainer(config: DictConfig, folder: Path, **arguments: Any) -> L.Trainer:
    """Return a trainer for one task.

    Args:
        config: The configuration of the run.
        folder: The run folder.
        arguments: Arguments of :class:`lightning.Trainer` that differ between tasks.

    Raises:
        UserError: If the trainer refuses its settings.
    """
    return cast(
        L.Trainer,
        instantiated(
            "trainer",
            config.trainer,
            default_root_dir=str(folder),
            gradient_clip_val=config.optimizer.gradient_clip,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # the module logs once an epoch by itself
            # Lightning's requeueing would resume one task from the checkpoint of another.
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
            **arguments,
        ),
    )


def process_rank() -> int:
    """Return this process's rank in a data-parallel run, 0 otherwise."""
    return int(getattr(rank_zero_only, "rank", None) or 0)


def device_of(trainer: Mapping[str, Any]) -> torch.device:
    """Return where a trainer of these settings computes in this process.

    Args:
        trainer: Its settings; ``devices`` is a number of GPUs, or a list of which ones.

    Raises:
        UserError: If an accelerator is asked for that is not there.
    """
    accelerator = str(trainer["accelerator"])
    choice("trainer.accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if accelerator == "mps":
        return torch.device("mps")
    if not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={accelerator}, but torch sees no GPU here. Use trainer=cpu.")
    rank, devices = process_rank(), trainer["devices"]
    named = isinstance(devices, Sequence) and not isinstance(devices, str)
    return torch.device("cuda", devices[rank % len(devices)] if named else rank)


def own_device(trainer: Mapping[str, Any], job: int) -> dict[str, Any]:
    """Return the settings of a trainer that is one of several at a time: the visible GPUs are dealt out in turn.

    A GPU that is named in the settings is left, and so is whatever is no GPU.

    Args:
        trainer: Settings of a trainer on one device.
        job: Number of the job.
    """
    if isinstance(trainer["devices"], list) or device_of(trainer).type != "cuda":
        return dict(trainer)
    return {**trainer, "devices": [job % torch.cuda.device_count()]}


def quiet_lightning() -> None:
    """Silence what Lightning says at every fit: a run makes one fit a task."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("timm").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="`training_step` returned `None`")  # a step left out: said by ourselves
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")  # Lightning's own, in 2.6
