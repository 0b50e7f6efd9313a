"""One run, from a Hydra config to a finished run folder."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from moleflow.errors import UserError, choice
from moleflow.files import read_json
from moleflow.interrupt import Interrupted, interruptible
from moleflow.store import ExpertStore
from moleflow.training.build import build_sequence
from moleflow.training.instantiated import instantiated
from moleflow.training.loggers import WandbReport, finish_loggers
from moleflow.training.parallel import check_independent, learn_alone, learn_in_jobs
from moleflow.training.results import summary, write_results
from moleflow.training.run_folder import RunFolder
from moleflow.training.trainer import own_device, process_rank

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, Any]:
    """Run what the config describes in Hydra's output folder and return the content of ``metrics.json``.

    A folder that holds the finished run already is left as it is; an unfinished one is continued.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir), settings)
    choice("resume", settings["resume"], ("auto", "force"))
    if process_rank():  # a worker of a data-parallel run: the first process owns the folder
        return _run(config, settings, folder)
    force = settings["resume"] == "force"
    if folder.finished():  # asked before the lock, so that not one file of a finished run changes
        return _finished(folder, force)
    with folder.locked(), plain_disk_errors(folder.path):
        folder.claim(force)
        if folder.finished():
            return _finished(folder, force)
        folder.set_status("running")
        try:
            with interruptible():
                metrics = _run(config, settings, folder)
        except Interrupted as stop:
            folder.set_status("interrupted", str(stop))
            raise
        except BaseException as error:
            if isinstance(error, UserError) and not folder.begun:  # refused: the corrected command finds a free folder
                folder.discard()
                raise
            with suppress(UserError):  # a full disk must not hide what went wrong
                folder.set_status("failed", str(error))
            raise
        folder.set_status("finished")
        log.info("\n".join((f"results in {folder.path}", *summary(metrics), "", *_next_steps(folder.path))))
        return metrics


def _next_steps(folder: Path) -> list[str]:
    found = ["pictures/ there shows what was found."] if (folder / "pictures").is_dir() else []
    return [
        *found,
        "python -m moleflow.predict FOLDER PICTURE... judges other pictures,",
        "python -m moleflow.report runs -o report compares this run with others.",
    ]


def _finished(folder: RunFolder, force: bool) -> dict[str, Any]:
    folder.claim(force)
    ExpertStore(folder.path / "model").check()  # nobody is told that all is done while the model is damaged
    print(f"{folder.path} is finished already; nothing to do.")  # not logged: the run's own log stays as it is
    return cast(dict[str, Any], read_json(folder.path / "metrics.json"))


def _run(config: DictConfig, settings: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    sequence = build_sequence(config, settings, folder.path)
    if settings["scenario"]["parallel"]:
        check_independent(sequence.model.flow, settings["trainer"])
        sequence.ahead = partial(learn_in_jobs, partial(_learn_alone, settings, folder.path, os.getpid()), sequence)
    loggers = [instantiated(f"logger.{name}", logger) for name, logger in config.logger.items()]
    sequence.loggers = loggers
    sequence.callbacks += [WandbReport(logger) for logger in loggers if isinstance(logger, WandbLogger)]
    started = time.time()
    status = "failed"
    try:
        for logger in loggers:
            logger.log_hyperparams(settings)
        routed = sequence.run()
        metrics = write_results(sequence, routed, started) if sequence.is_global_zero else {}
        status = "success"
        return metrics
    except Interrupted as stop:
        status = "interrupted"
        folder.set_status(status, str(stop))  # first: closing a logger may take its time
        raise
    finally:
        finish_loggers(loggers, status)


def _learn_alone(settings: dict[str, Any], folder: Path, owner: int, index: int) -> None:
    """Learn one task in a process that a launcher has started."""
    if os.getpid() != owner:  # beside others on this machine
        settings = settings | {"trainer": own_device(settings["trainer"], index)}
    with interruptible(), plain_disk_errors(folder):
        learn_alone(build_sequence(OmegaConf.create(settings), settings, folder), index, owner)


@contextmanager
def plain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a full or read-only disk makes of any library's writing into one message.

    Raises:
        UserError: In place of an :class:`OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}. Mend that and start the same command again; "
            "what the run has finished so far is kept."
        ) from error
