"""Later tasks as jobs of Hydra's launcher, trained concurrently and loaded by the run in order.

The base is trained with the first task. After that the tasks are independent, so each can be trained by another
process, from the model folder after the first task. A job leaves its experts in ``state/task<i>``; the run that
launched it loads them one by one, and saves and evaluates after each as if it had trained the task itself.
"""

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from moleflow.data.tasks import Task
from moleflow.models.base import PatchModel
from moleflow.runs.progress import Progress
from moleflow.training.callbacks.progress_bar import TaskProgress
from moleflow.training.context import RunContext
from moleflow.training.continual_trainer import ContinualTrainer
from moleflow.training.task_result import StoredTaskResult
from moleflow.utils.errors import UserError

log = logging.getLogger(__name__)


def check_independent_tasks(model: PatchModel, trainer: Mapping[str, Any]) -> None:
    """Check that later tasks do not depend on one another, and that one process trains each.

    Args:
        model: The patch model.
        trainer: Settings of the trainer.

    Raises:
        UserError: If not.
    """
    if model.sequential_dependency is not None:
        raise UserError(
            f"scenario.parallel=true trains later tasks concurrently, but with {model.sequential_dependency} each task "
            "depends on the previous ones. Remove scenario.parallel."
        )
    devices = trainer["devices"]
    single = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if not single or trainer.get("num_nodes", 1) != 1 or "ddp" in str(trainer.get("strategy", "")):
        raise UserError(
            f"scenario.parallel=true trains each task in one process, but trainer.devices={devices} (trainer=ddp) "
            "distributes a task over several. Use trainer=auto, or remove scenario.parallel."
        )


def train_task_in_job(trainer: ContinualTrainer, index: int, owner: int) -> None:
    """Train one later task and store its result; a complete result is left unchanged.

    Args:
        trainer: The continual trainer, without loggers.
        index: Index of the task.
        owner: Process id of the run that launched the job.
    """
    context = trainer.context
    stored = StoredTaskResult(context.state, index)
    if os.getpid() != owner:  # several concurrent bars would overwrite each other
        context.callbacks = [callback for callback in context.callbacks if not isinstance(callback, TaskProgress)]
    with stored.locked():
        progress = Progress.read(context.state / "progress.json")
        if progress.tasks_done > index or stored.is_complete():  # by a job that outlived the run that launched it
            return
        task = context.tasks[index]
        context.set_recorded_augmentations(progress)
        trainer.restore(1)
        stored.write(context.model, list(context.experts_of(task)), trainer.train_task(task))
        log.info("%s is trained.", context.task_label(task))


@dataclass(frozen=True)
class Job:
    """The callable that the launcher's processes run.

    Attributes:
        work: Trains the task of an index; can be pickled.
        tasks: Index of the task of each job.
    """

    work: Callable[[int], None]
    tasks: tuple[int, ...]

    def __call__(self, config: DictConfig) -> None:
        """Train the task of this job, with the run's configuration instead of the one composed by the launcher."""
        self.work(self.tasks[int(HydraConfig.get().job.num)])


def train_tasks_in_jobs(work: Callable[[int], None], context: RunContext, tasks: Sequence[Task]) -> None:
    """Train all unfinished tasks by Hydra's launcher, and return when all are complete.

    Args:
        work: Trains the task of an index; can be pickled.
        context: The run.
        tasks: Later tasks.

    Raises:
        UserError: If a job failed. The results of the others are kept.
    """
    missing = [task for task in tasks if not StoredTaskResult(context.state, task.index).is_complete()]
    if not missing:
        return
    config = _launcher_config(context.folder)
    launcher_name = config.hydra.runtime.choices.get("hydra/launcher", "basic")
    hint = ": one after another, in this process (hydra/launcher=joblib trains them concurrently)"
    log.info(
        "Training %d tasks as jobs of hydra/launcher=%s%s.",
        len(missing),
        launcher_name,
        hint if launcher_name == "basic" else "",
    )
    job = Job(work, tuple(task.index for task in missing))
    hydra_context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(hydra_context, job, config)
    try:
        results = launcher.launch([list(config.hydra.overrides.task)] * len(missing), initial_job_idx=0)
    except Exception as error:  # a killed process, a rejected cluster job
        raise UserError(
            f"hydra/launcher={launcher_name} ended before its jobs did: {error}\nFinished tasks are kept. Run the same "
            "command again to resume."
        ) from error
    finally:
        current = HydraConfig.get()
        configure_log(cast(DictConfig, current.job_logging), current.verbose)  # launchers change the logging
    _raise_failures({context.task_label(task): result for task, result in zip(missing, results, strict=True)})


def _launcher_config(folder: Path) -> DictConfig:
    """Return Hydra's configuration for jobs whose output folder, and therefore log file, is that of the run."""
    config = cast(DictConfig, copy.deepcopy(HydraConfig.instance().cfg))
    quoted = QuotedString(text=str(folder), quote=Quote.single).with_quotes()
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), "."
        config.hydra.overrides.hydra += [f"hydra.sweep.dir={quoted}", "hydra.sweep.subdir=."]
    return config


def _raise_failures(results: Mapping[str, JobReturn]) -> None:
    failures = {label: r._return_value for label, r in results.items() if r.status == JobStatus.FAILED}
    if not failures:
        return
    reasons = [
        f"  {label}: {str(error).removeprefix(f'{label}: ') or type(error).__name__}"
        for label, error in failures.items()
    ]
    message = "\n".join(
        (
            f"{len(failures)} of {len(results)} jobs failed. Finished tasks are kept; run the same command again to "
            "train the missing ones:",
            *reasons,
        )
    )
    unexpected = [error for error in failures.values() if not isinstance(error, UserError)]
    if unexpected:
        raise RuntimeError(message) from unexpected[0]
    raise UserError(message)
