"""Training of the tasks of a run, and its results."""

import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from moleflow.data.fingerprint import data_fingerprint
from moleflow.detector.predictor import threshold_notes, threshold_rows
from moleflow.evaluation.evaluator import CategoryResult
from moleflow.evaluation.results import collect_metrics, write_results
from moleflow.experiment.build import build_continual_trainer, instantiate
from moleflow.experiment.compose import Pruned
from moleflow.experiment.objective import check_search_objective, objective_keys
from moleflow.experiment.parallel import check_independent_tasks, train_task_in_job, train_tasks_in_jobs
from moleflow.experiment.sweep import is_search
from moleflow.runs.folder import RunFolder, disk_errors
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.callbacks.run_logging import RunLogging
from moleflow.training.context import RunContext
from moleflow.training.experiment_log.base import ExperimentLog
from moleflow.training.trainer import job_trainer, process_rank
from moleflow.utils.signals import Interrupted, interruptible

log = logging.getLogger(__name__)


def train(config: DictConfig, settings: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Train all tasks and write the results; return the content of ``metrics.json``."""
    command = list(HydraConfig.get().overrides.task)
    trainer = build_continual_trainer(config, settings, folder.path, command)
    context = trainer.context
    if is_search(HydraConfig.get()):
        for key in objective_keys(settings["objective"]):
            check_search_objective(key, context.data, len(context.tasks))
        if HydraConfig.get().sweeper.get("trial") is not None:
            from moleflow.experiment.trial import trial_callbacks  # imports Optuna

            context.callbacks += trial_callbacks(HydraConfig.get(), settings["objective"])
    if not process_rank():
        folder.claim_data(data_fingerprint(context.data), settings["resume"] == "force")
    if settings["scenario"]["parallel"]:
        check_independent_tasks(context.model.patch_model, settings["trainer"])
        work = partial(_train_in_job, settings, folder.path, os.getpid())
        trainer.prefetch_tasks = partial(train_tasks_in_jobs, work, context)
    started = time.time()
    status = "failed"
    try:
        if not process_rank():
            open_logs(config, context)
        for run_log in context.logs:
            run_log.begin(settings)
        routed = trainer.run()
        metrics = finish_run(context, routed, started) if context.is_global_zero else {}
        status = "success"
        return metrics
    except Pruned:
        status = "pruned"
        raise
    except Interrupted as signal:
        status = "interrupted"
        folder.set_status(status, str(signal))  # first, because closing a logger may take long
        raise
    finally:
        folder.training_started = trainer.training_started
        for run_log in context.logs:
            run_log.finish(status)


def open_logs(config: DictConfig, context: RunContext) -> None:
    """Open the logs of a run, and add the callback that writes them.

    Args:
        config: The configuration; each entry of ``logger`` is a log, or a Lightning logger, which gets scalars only.
        context: The run.

    Raises:
        UserError: If a log cannot be opened.
    """
    for name, entry in config.logger.items():
        run_log = instantiate(f"logger.{name}", entry)
        context.logs.append(run_log if isinstance(run_log, ExperimentLog) else ExperimentLog(run_log))
    context.callbacks.append(RunLogging())


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
    thresholds = {name: context.detector.thresholds(name) for name in context.detector.experts}
    metrics["thresholds"] = threshold_rows(thresholds)
    for note in threshold_notes(thresholds, f"moleflow calibrate {context.folder} FOLDER"):
        log.warning("%s", note)
    metrics["overrides"] = list(context.command)
    metrics["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    metrics["started"] = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started))
    for callback in context.callbacks:
        if isinstance(callback, RunCallback):
            callback.on_run_complete(context, metrics)
    return write_results(context.folder, metrics, routed, context.data.root)


def _train_in_job(settings: dict[str, Any], folder: Path, owner: int, index: int) -> None:
    """Train one task in a process that a launcher started."""
    if os.getpid() != owner:  # one of several jobs on this machine
        settings = settings | {"trainer": job_trainer(settings["trainer"], index)}
    with interruptible(), disk_errors(folder):
        trainer = build_continual_trainer(OmegaConf.create(settings), settings, folder)
        train_task_in_job(trainer, index, owner)
