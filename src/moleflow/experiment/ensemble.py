"""Evaluation of an ensemble: a run folder from several finished runs."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from moleflow.data.datamodule import ImageDataModule
from moleflow.data.samples import Sample
from moleflow.data.tasks import Task
from moleflow.detector.components import resolve_device
from moleflow.detector.folders import ENSEMBLE_FILE
from moleflow.evaluation.results import format_metrics
from moleflow.experiment.build import build_data, build_training_config, feature_cache
from moleflow.experiment.execution import finish_run
from moleflow.inference.ensemble import EnsembleDetector
from moleflow.runs.folder import RunFolder, data_changes, read_data
from moleflow.runs.identity import NON_IDENTITY_KEYS, matches_any
from moleflow.runs.reader import Run, load_run
from moleflow.training.context import RunContext
from moleflow.utils.config import flatten_config
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_json

log = logging.getLogger(__name__)

Split = tuple[list[Sample], list[Sample]]
"""Training and validation images of a category."""


def evaluate_ensemble(
    folders: Sequence[Path], out: Path, device: str = "cpu", show_progress: bool = True
) -> dict[str, Any]:
    """Evaluate the ensemble of finished runs and write its run folder; return the content of ``metrics.json``.

    The first run's configuration determines data set, view, map size and router. The new ``config.yaml`` lists under
    ``ensemble`` the keys in which each member differs. A finished ensemble is left unchanged.

    Args:
        folders: The run folders, at least two.
        out: The new run folder.
        device: Where the models compute.
        show_progress: Whether to show progress bars.

    Raises:
        UserError: If a run is not finished or does not match the first one, or ``out`` has another run.
    """
    runs = [_member(folder) for folder in folders]
    first = runs[0].config
    members = [_differences(runs[0], run) for run in runs]  # no paths: other seeds are the same configuration
    config = first | {"name": out.name, "ensemble": members, "reported": None, "expected": None}
    folder = RunFolder(out, config)
    if folder.is_finished():
        folder.claim(force=False)
        return cast(dict[str, Any], read_json(out / "metrics.json"))
    detector = EnsembleDetector.from_runs(folders, device, feature_cache(first))
    data = build_data(first, resolve_device(device))
    with folder.locked():
        folder.claim(force=False)
        folder.set_status("running")
        try:
            metrics = _evaluate(detector, data, runs, out, show_progress)
        except BaseException as error:
            folder.set_status("failed", str(error))
            raise
        folder.set_status("finished")
    log.info("\n".join((f"Results in {out}", *format_metrics(metrics))))
    return metrics


def _evaluate(
    detector: EnsembleDetector, data: ImageDataModule, runs: Sequence[Run], out: Path, show_progress: bool
) -> dict[str, Any]:
    """Calibrate the members, evaluate the ensemble, and write the results."""
    started = time.time()
    splits = [partial(_split, data, run.config) for run in runs]

    def training_images(split: Callable[[str], Split], category: str) -> list[Sample]:
        return split(category)[0]

    def validation_images(category: str) -> list[Sample]:
        first, *others = (split(category)[1] for split in splits)
        return [sample for sample in first if all(sample in other for other in others)]

    detector.calibrate_members([partial(training_images, split) for split in splits], validation_images)
    first = runs[0].config
    context = RunContext(
        detector=detector,
        data=data,
        tasks=[Task(0, data.categories, "ensemble")],
        # Nothing is trained, and the overrides of one expert need not apply to the single task that is evaluated.
        config=replace(build_training_config(OmegaConf.create(first), first, data.categories), per_category={}),
        folder=out,
        show_progress=show_progress,
    )
    progress = context.progress
    progress.tasks_done = 1
    with progress.clock("evaluation"):
        routed = context.evaluator.routed(data.categories, "evaluate")
    for run in runs:
        progress.step += run.metrics["training"]["steps"]
        for activity, seconds in run.metrics["seconds"].items():
            progress.seconds[activity] += seconds
    progress.matrix.add(0, {c: result.all_metrics() for c, result in routed.items()}, [data.categories])
    detector.write(out / ENSEMBLE_FILE)
    return finish_run(context, routed, started)


def _member(folder: Path) -> Run:
    """Return a finished run with a model.

    Raises:
        UserError: If it is not finished, or an ensemble itself.
    """
    run = load_run(folder)
    if run.is_ensemble:
        raise UserError(f"{folder} is an ensemble without a model. Give its member runs.")
    if "returning" in run.config["scenario"]:
        raise UserError(f"{folder} has categories that returned (scenario=returning), which an ensemble cannot have.")
    return run


def _split(data: ImageDataModule, config: Mapping[str, Any], category: str) -> Split:
    """Return the training and validation images of a category in the run with a configuration."""
    return data.split_by(category, config["validation"], config["dataset"].get("shots"), config["seed"])


def _differences(first: Run, other: Run) -> dict[str, Any]:
    """Return the dotted keys, with their values, in which a member's configuration differs from the first one.

    Raises:
        UserError: If it was trained on another data set.
    """
    reference, values = flatten_config(first.config), flatten_config(other.config)
    for key in ("dataset._target_", "dataset.root"):
        if reference.get(key) != values.get(key) and (key != "dataset.root" or not _has_equal_data(first, other)):
            raise UserError(
                f"The runs differ in {key}: {values.get(key)!r} instead of {reference.get(key)!r}. Members of an "
                "ensemble need the same data set."
            )
    return {
        key: value
        for key, value in values.items()
        if reference.get(key) != value and not matches_any(key, ("name", *NON_IDENTITY_KEYS))
    }


def _has_equal_data(first: Run, other: Run) -> bool:
    """Return whether two runs recorded equal images at different places; false if a record is missing or damaged."""
    try:
        return not data_changes(*(read_data(run.folder) for run in (first, other)))
    except UserError:
        return False
