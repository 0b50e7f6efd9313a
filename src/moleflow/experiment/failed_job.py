"""Failure of a job whose process has died, in the form of a job that has raised an error."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write


def failed_job(
    hydra_context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int, error: Exception
) -> JobReturn:
    """Return the result of a job that has no process any more, after Hydra's callbacks have been called.

    Args:
        hydra_context: Context of Hydra.
        config: The configuration of the sweep.
        overrides: The overrides of the job.
        number: The number of the job.
        error: The error by which its death was noticed.
    """
    job = hydra_context.config_loader.load_sweep_config(config, list(overrides))
    sweep = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(job)  # the name of the folder refers to it
        folder = Path(str(job.hydra.sweep.dir), str(job.hydra.sweep.subdir)).absolute()
    finally:
        HydraConfig.instance().cfg = sweep
    with read_write(job.hydra), open_dict(job.hydra):
        job.hydra.job.num = number
        job.hydra.runtime.output_dir = str(folder)
    result = JobReturn(overrides=list(job.hydra.overrides.task), status=JobStatus.FAILED, _return_value=error)
    hydra_context.callbacks.on_job_end(config=job, job_return=result)
    return result
