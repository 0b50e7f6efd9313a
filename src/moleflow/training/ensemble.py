"""A run folder from several finished ones: the ensemble of their models, measured like any run."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml

from moleflow.data import PictureDataModule, Sample, Task
from moleflow.errors import UserError
from moleflow.files import read_json
from moleflow.inference.ensemble import Ensemble
from moleflow.model import MoLEFlow
from moleflow.store import ENSEMBLE_FILE
from moleflow.training.build import build_data
from moleflow.training.evaluation import Evaluator
from moleflow.training.held_out import hold_out
from moleflow.training.progress import Progress
from moleflow.training.results import summary, write_results
from moleflow.training.run_folder import BEFORE, CIRCUMSTANCES, RunFolder, is_any_of
from moleflow.values import flat

log = logging.getLogger(__name__)


@dataclass
class EnsembleRun:
    """What :func:`write_results` asks of a run: nothing was learned here, everything is measured once at the end."""

    model: MoLEFlow
    data: PictureDataModule
    folder: Path
    evaluator: Evaluator
    progress: Progress
    tasks: list[Task]
    learned_and_held_out: Callable[[str], tuple[list[Sample], list[Sample]]]
    loggers: list[Any] = field(default_factory=list)

    @property
    def categories(self) -> list[str]:
        """All categories."""
        return list(self.tasks[0].categories)

    def complete(self, metrics: dict[str, Any]) -> None:
        """Nobody follows."""


def ensemble(runs: Sequence[Path], out: Path, device: str = "cpu", show_progress: bool = True) -> dict[str, Any]:
    """Measure the ensemble of finished runs and write a run folder of it; return the content of ``metrics.json``.

    The first run's configuration decides data set, view, map size and router. Where the others' differ, the new
    ``config.yaml`` says so under ``ensemble``, one entry a member. A folder that holds the finished ensemble already is
    left as it is.

    Args:
        runs: The run folders, at least two.
        out: The new run folder.
        device: Where to compute.
        show_progress: Whether to show progress bars.

    Raises:
        UserError: If a run is not finished or does not go with the first one, or ``out`` holds another run.
    """
    configs = [_config(run) for run in runs]
    first = configs[0]
    members = [_differences(first, config) for config in configs]  # no paths: other seeds are the same configuration
    config = first | {"name": out.name, "ensemble": members, "reported": None, "expected": None}
    folder = RunFolder(out, config)
    if folder.finished():
        folder.claim(force=False)
        return cast(dict[str, Any], read_json(out / "metrics.json"))
    cache = first["features"]["cache_dir"]
    model = Ensemble.joined(runs, device, "memory" if cache is None else Path(cache).expanduser())
    data = build_data(first)
    with folder.locked():
        folder.claim(force=False)
        folder.set_status("running")
        try:
            metrics = _measured(model, data, runs, configs, out, show_progress)
        except BaseException as error:
            folder.set_status("failed", str(error))
            raise
        folder.set_status("finished")
    log.info("\n".join((f"results in {out}", *summary(metrics))))
    return metrics


def _measured(
    model: Ensemble,
    data: PictureDataModule,
    runs: Sequence[Path],
    configs: Sequence[Mapping[str, Any]],
    out: Path,
    show_progress: bool,
) -> dict[str, Any]:
    """Put the members on one scale, measure them, and write the results."""
    started = time.time()
    model.put_on_scale([partial(_learned, data, config) for config in configs])
    progress = Progress(tasks_done=1)
    evaluator = Evaluator(model, data, show_progress)
    task = Task(0, data.categories, "ensemble")
    run = EnsembleRun(model, data, out, evaluator, progress, [task], partial(_parted, data, configs[0]))
    with run.progress.clock("evaluation"):
        routed = evaluator.routed(data.categories, "evaluate")
    for each in runs:
        past = read_json(each / "metrics.json")
        progress.step += past["training"]["steps"]
        for what, seconds in past["seconds"].items():
            progress.seconds[what] += seconds
    values = {c: result.metrics | {"routing_accuracy": result.routing_accuracy} for c, result in routed.items()}
    progress.matrix.add(0, values, [data.categories])
    model.write(out / ENSEMBLE_FILE)
    return write_results(run, routed, started)


def _config(run: Path) -> dict[str, Any]:
    """Return the configuration of a finished run.

    Raises:
        UserError: If it is not finished, or an ensemble itself.
    """
    status = read_json(run / "status.json").get("status") if (run / "status.json").is_file() else "no run"
    if status != "finished":
        raise UserError(f"{run} is not a finished run ({status}). Finish it with its own command first.")
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{run / 'config.yaml'} cannot be read ({error}).") from error
    if not isinstance(config, dict) or "ensemble" in config:
        raise UserError(f"{run} is no run with a model of its own. Name the runs that it was made of.")
    return {**{key: value for key, value in BEFORE.items() if "." not in key}, **config}


def _parted(data: PictureDataModule, config: Mapping[str, Any], category: str) -> tuple[list[Sample], list[Sample]]:
    """Return a category's training pictures as a run of this configuration parts them."""
    return hold_out(data.samples("train", category), float(config["held_out"]), int(config["seed"]))


def _learned(data: PictureDataModule, config: Mapping[str, Any], category: str) -> list[Path]:
    return [sample.path for sample in _parted(data, config, category)[0]]


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a member's configuration has that the first one's has not, as dotted keys.

    Raises:
        UserError: If it was measured on other pictures.
    """
    ours, theirs = flat(first), flat(other)
    for key in ("dataset._target_", "dataset.root"):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"The runs differ in {key}: {theirs.get(key)!r} instead of {ours.get(key)!r}. Members of an ensemble "
                "are of one data set."
            )
    return {
        key: value
        for key, value in theirs.items()
        if ours.get(key) != value and not is_any_of(key, ("name", *CIRCUMSTANCES))
    }
