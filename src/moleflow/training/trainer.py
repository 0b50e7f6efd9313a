"""Set-up of the training process: devices, logging, memory allocation."""

import ctypes
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from moleflow.utils.errors import UserError, check_choice

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def process_rank() -> int:
    """Return the rank of this process in a data-parallel run, otherwise 0."""
    return int(getattr(rank_zero_only, "rank", None) or 0)


def trainer_device(trainer: Mapping[str, Any]) -> torch.device:
    """Return the device on which a trainer with these settings computes in this process.

    Args:
        trainer: Settings of the trainer; ``devices`` is a number of GPUs, or a list of their indices.

    Raises:
        UserError: If the accelerator is unknown or not available.
    """
    accelerator = str(trainer["accelerator"])
    check_choice("trainer.accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if accelerator == "mps":
        return torch.device("mps")
    if not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={accelerator} is not available: torch finds no GPU. Use trainer=cpu.")
    rank, devices = process_rank(), trainer["devices"]
    listed = isinstance(devices, Sequence) and not isinstance(devices, str)
    return torch.device("cuda", devices[rank % len(devices)] if listed else rank)


def job_trainer(trainer: Mapping[str, Any], job: int) -> dict[str, Any]:
    """Return the settings of the trainer of one of several concurrent jobs, distributed over the visible GPUs.

    Settings that name a GPU, and those of trainers without a GPU, are returned unchanged.

    Args:
        trainer: Settings of a trainer on one device.
        job: Index of the job.
    """
    if isinstance(trainer["devices"], list) or trainer_device(trainer).type != "cuda":
        return dict(trainer)
    return {**trainer, "devices": [job % torch.cuda.device_count()]}


def quiet_lightning() -> None:
    """Suppress Lightning's messages about each fit, because a run has one fit per task."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("timm").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="`training_step` returned `None`")  # FlowModule warns of skipped steps
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")  # Lightning 2.6 itself calls it


def retain_freed_memory() -> bool:
    """Make glibc's malloc retain freed memory instead of returning it to the kernel.

    A training step allocates and frees some hundred tensors of tens of megabytes. By default glibc maps each one anew,
    and clearing its pages takes the kernel longer than the computation. Peak memory does not change, but the process
    holds it until it ends. See mallopt(3), ``M_MMAP_MAX`` and ``M_TRIM_THRESHOLD``.

    Returns:
        Whether the allocator accepted the settings; without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
