"""One run: from a configuration to a finished run folder."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from moleflow.data.datamodule import ImageDataModule
from moleflow.data.fingerprint import data_fingerprint
from moleflow.detector.store import ModelStore
from moleflow.evaluation.evaluator import CategoryResult
from moleflow.evaluation.groups import defined_metrics, is_data_set_metric
from moleflow.evaluation.results import METRICS, collect_metrics, format_metrics, write_results
from moleflow.experiment.build import build_continual_trainer, build_data, dataset_roots, instantiate
from moleflow.experiment.parallel import check_independent_tasks, train_task_in_job, train_tasks_in_jobs
from moleflow.experiment.sweep import is_search
from moleflow.runs.folder import RunFolder
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.callbacks.wandb import WandbReport
from moleflow.training.context import RunContext
from moleflow.training.loggers import finish_loggers
from moleflow.training.trainer import job_trainer, process_rank
from moleflow.utils.errors import UserError, check_choice, did_you_mean
from moleflow.utils.io import read_json
from moleflow.utils.signals import Interrupted, interruptible

log = logging.getLogger(__name__)

_OBJECTIVE_ROOTS = (
    *METRICS, "routing_accuracy", "forgetting", "backward_transfer", "return_gain", "oracle", "per_category", "seconds"
)  # fmt: skip
"""First parts of the allowed objectives: the numeric keys of ``metrics.json``."""

_PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pro")


def run(config: DictConfig) -> dict[str, Any]:
    """Run a configuration in Hydra's output folder and return the content of ``metrics.json``.

    A finished run is left unchanged; an unfinished one is resumed.

    Raises:
        UserError: If the configuration, the data or the folder does not permit the run.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir), settings)
    try:
        check_choice("resume", settings["resume"], ("auto", "force"))
        check_objective(settings["objective"])
    except UserError:
        folder.remove_empty()  # not locked: it may belong to another process
        _close_log_files()
        raise
    if process_rank():  # a worker of a data-parallel run: the first process owns the folder
        return _train(config, settings, folder)
    force = settings["resume"] == "force"
    if folder.is_finished():  # checked before locking, so that no file of a finished run changes
        return _finished_metrics(folder, settings, force)
    with folder.locked(), disk_errors(folder.path):
        folder.claim(force)
        if folder.is_finished():
            return _finished_metrics(folder, settings, force)
        folder.set_status("running")
        try:
            with interruptible():
                metrics = _train(config, settings, folder)
        except Interrupted as signal:
            folder.set_status("interrupted", str(signal))
            raise
        except BaseException as error:
            rejected = isinstance(error, UserError) and not (folder.training_started or folder.has_results)
            if rejected:  # the corrected command finds a free folder
                folder.discard()
                _close_log_files()
                raise
            with suppress(UserError):  # a full disk must not hide the original error
                folder.set_status("failed", str(error))
            raise
        folder.set_status("finished")
        log.info("\n".join((f"Results in {folder.path}", *format_metrics(metrics), "", *_next_steps(folder.path))))
        return metrics


def finish_run(context: RunContext, routed: Mapping[str, CategoryResult], started: float) -> dict[str, Any]:
    """Collect the metrics of a run, run the final callbacks, and write the result files.

    Args:
        context: The run, after its last task.
        routed: Results of all categories, scored by the router's choice.
        started: Start of this process, in seconds since the epoch.

    Returns:
        The content of ``metrics.json``.
    """
    with context.progress.clock("evaluation"):
        oracle = context.evaluator.oracle(context.categories, "oracle")
    decisions = {category: context.evaluator.decisions(category, result) for category, result in routed.items()}
    metrics = collect_metrics(
        context.detector, context.data, context.tasks, context.progress, routed, oracle, decisions
    )
    metrics["overrides"] = list(context.command)
    metrics["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    metrics["started"] = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started))
    for callback in context.callbacks:
        if isinstance(callback, RunCallback):
            callback.on_run_complete(context, metrics)
    final = {f"final/{name}": metrics[name] for name in (*METRICS, "routing_accuracy") if metrics[name] is not None}
    final |= {f"final/{name}": value for name, value in metrics["decisions"].items() if value is not None}
    for logger in context.loggers:
        logger.log_metrics(final, step=context.progress.step)
    return write_results(context.folder, metrics, routed, context.data.root)


def check_objective(key: str) -> None:
    """Check before the run that ``metrics.json`` can have the objective.

    Raises:
        UserError: If it cannot.
    """
    root = key.split(".")[0]
    if not is_data_set_metric(root):
        check_choice("objective", root, _OBJECTIVE_ROOTS)


def check_search_objective(key: str, data: ImageDataModule, num_tasks: int | None = None) -> None:
    """Check that a data set permits the metric that a search maximizes.

    Args:
        key: The objective, a dotted key of ``metrics.json``.
        data: The data set.
        num_tasks: Number of tasks; None: not checked.

    Raises:
        UserError: If the metric cannot exist: a pixel metric without masks, an image metric of test images of one
            class, or forgetting with one task.
    """
    first, *others = key.split(".")
    if first in ("forgetting", "backward_transfer") and num_tasks == 1:
        raise UserError(
            f"objective={key} does not exist with one task. Set objective=image_auroc, or another scenario."
        )
    if is_data_set_metric(first):
        names = set[str]().union(*(defined_metrics(data.scan(category)) for category in data.categories))
        check_choice("objective", first, (*METRICS, *sorted(names)))
    metric = next((part for part in (first, *others) if part in METRICS), None)
    if metric is None:
        return
    single = first == "per_category" and others[0] in data.categories
    categories = [others[0]] if single else list(data.categories)
    where = f"{categories[0]} has" if single else "the data set has"
    if metric in _PIXEL_METRICS and not any(data.has_masks(category) for category in categories):
        raise UserError(
            f"objective={key} cannot be searched: {where} no masks, so there are no pixel metrics. "
            f"Set objective={key.replace(metric, 'image_auroc')}, or add masks."
        )
    labels = [{sample.label for sample in data.samples("test", category)} for category in categories]
    if not any(len(found) > 1 for found in labels):
        raise UserError(
            f"objective={key} cannot be searched: {where} test images of one class only. Add normal and defective test "
            "images."
        )


def objective(metrics: Mapping[str, Any], key: str) -> float | None:
    """Return one value of ``metrics.json``; None where it does not exist, such as a pixel metric without masks.

    Args:
        metrics: The content of ``metrics.json``; empty in a worker of a data-parallel run, whose result is None.
        key: Dotted key, such as ``pixel_ap`` or ``per_category.screw.image_auroc``.

    Raises:
        UserError: If there is no such value.
    """
    if not metrics:
        return None
    value: Any = metrics
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = list(value) if isinstance(value, Mapping) else []
            raise UserError(f"objective={key} does not exist: metrics.json has no {part!r}.{did_you_mean(part, known)}")
        value = value[part]
    if isinstance(value, Mapping | list | str):
        raise UserError(f"objective={key} is not a number. Choose one of its keys, such as {key}.pixel_ap.")
    return None if value is None else float(value)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the errors of any library on a full or read-only disk into one message.

    Raises:
        UserError: In place of an :class:`OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}. Correct this and run the same command again; "
            "finished tasks are kept."
        ) from error


def _train(config: DictConfig, settings: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Train all tasks and write the results; return the content of ``metrics.json``."""
    command = list(HydraConfig.get().overrides.task)
    trainer = build_continual_trainer(config, settings, folder.path, command)
    context = trainer.context
    if is_search(HydraConfig.get()):
        check_search_objective(settings["objective"], context.data, len(context.tasks))
    if not process_rank():
        folder.claim_data(data_fingerprint(context.data), settings["resume"] == "force")
    if settings["scenario"]["parallel"]:
        check_independent_tasks(context.model.patch_model, settings["trainer"])
        work = partial(_train_in_job, settings, folder.path, os.getpid())
        trainer.prefetch_tasks = partial(train_tasks_in_jobs, work, context)
    context.loggers = [instantiate(f"logger.{name}", logger) for name, logger in config.logger.items()]
    context.callbacks += [WandbReport(logger) for logger in context.loggers if isinstance(logger, WandbLogger)]
    started = time.time()
    status = "failed"
    try:
        for logger in context.loggers:
            logger.log_hyperparams(settings)
        routed = trainer.run()
        metrics = finish_run(context, routed, started) if context.is_global_zero else {}
        status = "success"
        return metrics
    except Interrupted as signal:
        status = "interrupted"
        folder.set_status(status, str(signal))  # first, because closing a logger may take long
        raise
    finally:
        folder.training_started = trainer.training_started
        finish_loggers(context.loggers, status)


def _train_in_job(settings: dict[str, Any], folder: Path, owner: int, index: int) -> None:
    """Train one task in a process that a launcher started."""
    if os.getpid() != owner:  # one of several jobs on this machine
        settings = settings | {"trainer": job_trainer(settings["trainer"], index)}
    with interruptible(), disk_errors(folder):
        trainer = build_continual_trainer(OmegaConf.create(settings), settings, folder)
        train_task_in_job(trainer, index, owner)


def _close_log_files() -> None:
    """Close log files in removed folders, in which later messages of this process cannot be written."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler) and not Path(handler.baseFilename).parent.is_dir():
            root.removeHandler(handler)
            handler.close()


def _finished_metrics(folder: RunFolder, settings: dict[str, Any], force: bool) -> dict[str, Any]:
    """Return the metrics of a finished run after verifying its configuration, its data and its model.

    Raises:
        UserError: If the configuration or the data have changed, or the model is damaged. Data that cannot be read, for
            instance on another machine, are not compared.
    """
    folder.claim(force)
    fingerprint = None
    if all(root.is_dir() for root in dataset_roots(settings)):  # else a synthetic data set would be written
        try:
            fingerprint = data_fingerprint(build_data(settings))
        except UserError as error:
            print(f"The data cannot be compared with those of the run: {error}")
    if fingerprint is not None:
        folder.claim_data(fingerprint, force)
    ModelStore(folder.path / "model").check()  # verify the model before reporting success
    print(f"{folder.path} is finished already; nothing to do.")  # not logged: the run's log file stays unchanged
    return cast(dict[str, Any], read_json(folder.path / "metrics.json"))


def _next_steps(folder: Path) -> list[str]:
    examples = ["Example images are in pictures/."] if (folder / "pictures").is_dir() else []
    return [
        *examples,
        "Score other images:        moleflow predict FOLDER IMAGE...",
        "Compare with other runs:   moleflow report runs -o report",
    ]
