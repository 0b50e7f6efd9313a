"""Jobs as tasks of a Ray cluster, started again if their worker dies."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from moleflow.experiment.compose import JobError
from moleflow.experiment.failed_job import failed_job
from moleflow.utils.errors import UserError, check_range

try:
    import ray
except ImportError:
    raise JobError("hydra/launcher=ray needs Ray. Run: pip install 'moleflow[ray]'") from None

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """What all jobs of a launch share; sent to the workers.

    Attributes:
        hydra_context: Context of Hydra.
        task_function: The function that runs a job.
        config: The configuration of the sweep.
        singletons: State of Hydra's singletons.
        working_folder: Working folder of the command, in which relative paths of the jobs begin.
    """

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    singletons: dict[Any, Any]
    working_folder: str

    def run(self, overrides: Sequence[str], number: int) -> JobReturn:
        """Run one job in this process.

        Args:
            overrides: Overrides of the job.
            number: Number of the job.
        """
        os.chdir(self.working_folder)
        setup_globals()
        Singleton.set_state(self.singletons)
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.job.num = number
        HydraConfig.instance().set_config(config)
        return run_job(
            hydra_context=self.hydra_context,
            config=config,
            task_function=self.task_function,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def launch(
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    settings: dict[str, Any],
) -> list[JobReturn]:
    """Run jobs on a Ray cluster and return their results in order.

    A job whose worker dies is started again and resumes its run folder. If it dies too often, the job has failed, and
    the others are not affected.

    Args:
        hydra_context: Context of Hydra.
        task_function: The function that runs a job.
        config: The configuration of the sweep.
        job_overrides: Overrides of each job.
        first: Number of the first job.
        settings: The keys of ``conf/hydra/launcher/ray.yaml``.

    Raises:
        JobError: If a setting is invalid, or the cluster cannot be reached.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    _connect(settings)
    retries = settings["max_retries"]
    options = {"num_cpus": settings["num_cpus"], "num_gpus": settings["num_gpus"], "max_retries": retries}
    run = ray.remote(**options)(Sweep.run)
    sweep = ray.put(Sweep(hydra_context, task_function, config, Singleton.get_state(), os.getcwd()))
    for number, overrides in enumerate(job_overrides, first):
        log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
    references = [run.remote(sweep, list(overrides), number) for number, overrides in enumerate(job_overrides, first)]
    results = []
    for number, (reference, overrides) in enumerate(zip(references, job_overrides, strict=True), first):
        try:
            results.append(ray.get(reference))
        except ray.exceptions.RayError as error:
            cause = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
            begun = isinstance(error, ray.exceptions.RayTaskError)
            text = "A Ray worker cannot run the job" if begun else f"The Ray worker died, as in {retries} restarts"
            results.append(failed_job(hydra_context, config, overrides, number, UserError(f"{text}: {cause}")))
    return results


def _connect(settings: dict[str, Any]) -> None:
    """Connect to the cluster, or start one on this machine, which ends with this process.

    Raises:
        JobError: If a setting is invalid, or the cluster cannot be reached.
    """
    try:
        for key in ("num_cpus", "num_gpus", "max_retries"):
            check_range(f"hydra.launcher.{key}", settings[key], 0)
    except UserError as error:
        raise JobError(str(error)) from None
    if ray.is_initialized():
        return
    local = {"include_dashboard": False} if settings["address"] is None else {}
    try:
        ray.init(address=settings["address"], configure_logging=False, **local)
    except Exception as error:  # Ray raises this class itself
        place = "A Ray cluster on this machine cannot be started"
        if settings["address"] is not None:
            place = f"The Ray cluster hydra.launcher.address={settings['address']} cannot be reached"
        raise JobError(f"{place}: {error}") from error
