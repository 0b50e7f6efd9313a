"""Later tasks as jobs of Hydra's launcher: learned beside each other, taken in by the run in their order.

The base is learned with the first task. After that a task needs nothing of the others, so each can be learned by a
process of its own from the model folder as the first task left it. A job leaves its experts in ``state/task<i>``; the
run that launched it joins them one by one, saving and measuring after each as if it had learned them itself.
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

from moleflow.data import Task
from moleflow.errors import UserError
from moleflow.flow import PatchModel
from moleflow.training.callbacks import TaskProgress
from moleflow.training.learned import LearnedTask
from moleflow.training.learning import learn
from moleflow.training.progress import Progress
from moleflow.training.sequence import TaskSequence

log = logging.getLogger(__name__)


def check_independent(flow: PatchModel, trainer: Mapping[str, Any]) -> None:
    """Make sure that later tasks do not depend on one another, and that one process learns each.

    Args:
        flow: The model of patches.
        trainer: Settings of the trainer.

    Raises:
        UserError: If not; the message names the setting.
    """
    if flow.needs_earlier is not None:
        raise UserError(
            f"scenario.parallel=true learns later tasks beside each other, but with {flow.needs_earlier} each needs "
            "the ones before it. Leave out scenario.parallel."
        )
    devices = trainer["devices"]
    alone = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if not alone or trainer.get("num_nodes", 1) != 1 or "ddp" in str(trainer.get("strategy", "")):
        raise UserError(
            f"scenario.parallel=true gives each task a process of its own, but trainer.devices={devices} (trainer=ddp) "
            "shares one task among several. Use trainer=auto, or leave out scenario.parallel."
        )


def learn_alone(sequence: TaskSequence, index: int, owner: int) -> None:
    """Learn one later task and leave it for the run; what is learned already is left as it is.

    Args:
        sequence: The run, without loggers.
        index: Index of the task.
        owner: Process of the run that launched the job.
    """
    place = LearnedTask(sequence.state, index)
    if os.getpid() != owner:  # several bars would write over each other
        sequence.callbacks = [callback for callback in sequence.callbacks if not isinstance(callback, TaskProgress)]
    with place.owned():
        done = Progress.read(sequence.state / "progress.json").tasks_done
        if done > index or place.is_whole():  # by a job that outlived the run that launched it
            return
        task = sequence.tasks[index]
        sequence.restore(1)
        place.write(sequence.model, list(sequence.groups(task)), learn(sequence, task))
        log.info("%s is learned.", sequence.title(task))


@dataclass(frozen=True)
class Job:
    """What the launcher's processes run.

    Attributes:
        work: Learns the task of an index; a function that can be pickled.
        tasks: Indices of the tasks, one a job.
    """

    work: Callable[[int], None]
    tasks: tuple[int, ...]

    def __call__(self, config: DictConfig) -> None:
        """Learn the task of this job; the configuration is the run's own, whatever the launcher composed."""
        self.work(self.tasks[int(HydraConfig.get().job.num)])


def learn_in_jobs(work: Callable[[int], None], sequence: TaskSequence, tasks: Sequence[Task]) -> None:
    """Have Hydra's launcher learn those of the tasks that are not learned yet, and return when all are.

    Args:
        work: Learns the task of an index; a function that can be pickled.
        sequence: The run.
        tasks: Later tasks.

    Raises:
        UserError: If a job failed; the message names its task. What the others have learned is kept.
    """
    missing = [task for task in tasks if not LearnedTask(sequence.state, task.index).is_whole()]
    if not missing:
        return
    config = _launcher_config(sequence.folder)
    launcher_name = config.hydra.runtime.choices.get("hydra/launcher", "basic")
    hint = ": one after another, in this process (hydra/launcher=joblib learns them beside each other)"
    log.info(
        "Learning %d tasks as jobs of hydra/launcher=%s%s.",
        len(missing), launcher_name, hint if launcher_name == "basic" else "",
    )  # fmt: skip
    job = Job(work, tuple(task.index for task in missing))
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(context, job, config)
    try:
        ends = launcher.launch([list(config.hydra.overrides.task)] * len(missing), initial_job_idx=0)
    except Exception as error:  # a process that died, a cluster that refused
        raise UserError(
            f"hydra/launcher={launcher_name} ended before its jobs did: {error}\nWhat they have learned is kept, and "
            "the same command goes on from there."
        ) from error
    finally:
        own = HydraConfig.get()
        configure_log(cast(DictConfig, own.job_logging), own.verbose)  # launchers leave theirs
    _raise_failures({sequence.title(task): end for task, end in zip(missing, ends, strict=True)})


def _launcher_config(folder: Path) -> DictConfig:
    """Return Hydra's configuration for jobs whose output folder, and so whose log file, is that of the run."""
    config = cast(DictConfig, copy.deepcopy(HydraConfig.instance().cfg))
    where = QuotedString(text=str(folder), quote=Quote.single).with_quotes()
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), "."
        config.hydra.overrides.hydra += [f"hydra.sweep.dir={where}", "hydra.sweep.subdir=."]
    return config


def _raise_failures(ends: Mapping[str, JobReturn]) -> None:
    failed = {title: end._return_value for title, end in ends.items() if end.status == JobStatus.FAILED}
    if not failed:
        return
    reasons = [
        f"  {title}: {str(error).removeprefix(f'{title}: ') or type(error).__name__}" for title, error in failed.items()
    ]
    message = "\n".join(
        (
            f"{len(failed)} of {len(ends)} jobs failed; what the others have learned is kept, and the same command "
            "learns what is missing:",
            *reasons,
        )
    )
    unexpected = [error for error in failed.values() if not isinstance(error, UserError)]
    if unexpected:
        raise RuntimeError(message) from unexpected[0]
    raise UserError(message)
