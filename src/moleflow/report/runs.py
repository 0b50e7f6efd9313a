"""Finds run folders and reads them; what cannot be read becomes a fault with a reason, never an exception."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

from moleflow.errors import UserError
from moleflow.training.run_folder import run_label

METRICS = ("pixel_ap", "image_auroc", "pixel_auroc", "image_ap", "pro", "routing_accuracy")
"""The metrics that a run may have, the ones looked at first in front."""

_MARKS = ("metrics.json", "status.json", "config.yaml")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 10 times faster where libyaml is there


@dataclass(frozen=True)
class Fault:
    """A folder that gives no numbers, and why.

    Attributes:
        folder: The folder.
        kind: ``failed``, ``unfinished``, ``damaged`` or ``foreign``.
        reason: One sentence.
    """

    folder: Path
    kind: str
    reason: str


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    Attributes:
        folder: Its folder.
        place: The folder relative to where the search began: the run's name in the report.
        config: ``config.yaml``.
        metrics: ``metrics.json``.
        overrides: The command's overrides, as ``metrics.json`` has them.
    """

    folder: Path
    place: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    overrides: tuple[str, ...] = field(default=())

    @property
    def seed(self) -> int:
        """The run's seed; -1 where the config has none."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else -1

    @cached_property
    def dataset_name(self) -> str:
        """The data set's name; of a folder that of the folder."""
        settings = mapping(self.config.get("dataset"))
        name = str(settings.get("_target_", "unknown")).rsplit(".", 1)[-1].removesuffix("DataModule").lower()
        return Path(str(settings.get("root", name))).name if name in ("folder", "unknown") else name

    @property
    def native_masks(self) -> bool:
        """Whether defects were measured on every pixel of the files, not as the model sees them."""
        return self.config.get("masks") == "native"

    @cached_property
    def dataset(self) -> str:
        """Data set, categories and masks in short."""
        categories = sorted(self.categories)
        which = categories[0] if len(categories) == 1 else f"{len(categories)} categories"
        return f"{self.dataset_name}, {which}" + (", native masks" if self.native_masks else "")

    @property
    def pictures(self) -> tuple[str, tuple[str, ...]]:
        """What a comparison must have in common: the data set, its categories, and the masks that are measured on."""
        return self.dataset, tuple(sorted(self.categories))

    @cached_property
    def categories(self) -> list[str]:
        """The categories in the order of their arrival."""
        tasks = mapping(self.metrics.get("task_matrix")).get("tasks")
        if isinstance(tasks, list):
            return [str(category) for task in tasks for category in task]
        return list(self.per_category)

    @property
    def trained(self) -> bool:
        """Whether any gradient step was made: a model in closed form makes none."""
        training = mapping(self.metrics.get("training"))
        return training.get("steps") != 0 or any(training.get("epochs") or ())

    @property
    def per_category(self) -> dict[str, dict[str, Any]]:
        """Metrics by category."""
        return {str(k): mapping(v) for k, v in mapping(self.metrics.get("per_category")).items()}

    @property
    def label(self) -> str:
        """Experiment and overrides: what a person calls the run's configuration."""
        name = str(self.config.get("name", self.folder.parent.name))
        rest = run_label(self.overrides)
        return name if rest == "default" else f"{name}: {rest.replace(',', ', ')}"

    def value(self, *keys: str) -> float | None:
        """Return a finite number of ``metrics.json``, or None."""
        return number(self.metrics, *keys)

    def scores(self) -> list[dict[str, str]]:
        """Return the rows of ``scores.csv``; none if it is missing or damaged."""
        try:
            with (self.folder / "scores.csv").open(newline="", encoding="utf-8") as file:
                return [row for row in csv.DictReader(file) if None not in row.values()]
        except (OSError, ValueError, csv.Error):
            return []


def mapping(value: Any) -> dict[str, Any]:
    """Return ``value`` if it is a mapping, else an empty one: files by others hold anything."""
    return dict(value) if isinstance(value, Mapping) else {}


def number(content: Any, *keys: str) -> float | None:
    """Return the finite number below some keys, or None where there is none."""
    for key in keys:
        content = mapping(content).get(key)
    if not isinstance(content, int | float) or isinstance(content, bool):
        return None
    try:
        return float(content) if math.isfinite(content) else None
    except OverflowError:  # JSON knows no largest integer
        return None


def folders(root: Path) -> Iterator[Path]:
    """Yield every folder below ``root`` that looks like a run's, in order; does not look inside of one."""
    for path, below, files in os.walk(root, followlinks=False):
        below.sort()
        if any(mark in files for mark in _MARKS):
            # A folder may hold a stray file of such a name and real runs below it.
            below[:] = [] if "status.json" in files or "metrics.json" in files else below
            yield Path(path)
        below[:] = [name for name in below if not name.startswith(".")]


def read_runs(
    roots: Sequence[Path], progress: Callable[[list[Path]], Any] = lambda found: found
) -> tuple[list[Run], list[Fault]]:
    """Read all run folders below some folders.

    Args:
        roots: Where to look.
        progress: Wraps the list of folders, to show how far it is.

    Raises:
        UserError: If a root does not exist.
    """
    places: dict[Path, str] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root} is no folder. Give the folder that holds your runs, for example runs/.")
        for folder in folders(root.resolve()):
            place = folder.relative_to(root.resolve()).as_posix()
            places.setdefault(folder, folder.name if place == "." else place)
    runs: list[Run] = []
    faults: list[Fault] = []
    for folder in progress(list(places)):
        outcome = read_run(folder, places[folder])
        if isinstance(outcome, Run):
            runs.append(outcome)
        else:
            faults.append(outcome)
    return runs, faults


def read_run(folder: Path, place: str) -> Run | Fault:
    """Return the run of a folder, or why there is none."""
    try:
        status = mapping(_json(folder / "status.json")) if (folder / "status.json").is_file() else {}
        if not (folder / "metrics.json").is_file():
            return _without_metrics(folder, status)
        metrics = _json(folder / "metrics.json")
        if not isinstance(metrics, Mapping) or not isinstance(metrics.get("per_category"), Mapping):
            return Fault(folder, "foreign", "metrics.json is not moleflow's: it has no per_category.")
        if wrong := odd_part(metrics):
            return Fault(folder, "damaged", f"metrics.json holds a {wrong} that no run writes.")
        if not (folder / "config.yaml").is_file():
            return Fault(folder, "damaged", "config.yaml is missing, so nobody knows what the numbers belong to.")
        config = _yaml(folder / "config.yaml")
        if not isinstance(config, Mapping) or "dataset" not in config:
            return Fault(folder, "foreign", "config.yaml is not moleflow's: it has no dataset.")
        given = metrics.get("overrides")
        named = tuple(str(item) for item in given) if isinstance(given, list) else ()
        return Run(folder, place, dict(config), dict(metrics), named)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        return Fault(folder, "damaged", " ".join(str(error).split())[:300])


def odd_part(metrics: Mapping[str, Any]) -> str:
    """Return the name of a part of ``metrics.json`` whose shape is wrong, empty if there is none."""
    matrix, routing, training = (mapping(metrics.get(name)) for name in ("task_matrix", "routing", "training"))
    tasks = matrix.get("tasks", [])
    if not _is_table(tasks) or not all(tasks):
        return "task_matrix.tasks"
    for name, rows in matrix.items():
        if name != "tasks" and not (_is_table(rows) and all(len(row) <= len(tasks) for row in (rows, *rows))):
            return f"task_matrix.{name}"
    counts = routing.get("counts", {})
    if not isinstance(routing.get("experts", []), list) or not isinstance(counts, Mapping):
        return "routing"
    if any(number({"n": n}, "n") is None for row in counts.values() for n in mapping(row).values()):
        return "routing.counts"
    epochs = training.get("epochs", [])
    if not _is_table(epochs) or not all(isinstance(epoch, Mapping) for task in epochs for epoch in task):
        return "training.epochs"
    return ""


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) for row in value)


def _without_metrics(folder: Path, status: dict[str, Any]) -> Fault:
    state, reason = str(status.get("status", "")), str(status.get("reason", "")).strip()
    if state == "failed":
        return Fault(folder, "failed", reason or "no reason is on record.")
    if state == "finished":
        return Fault(folder, "damaged", "status.json says finished, but metrics.json is missing.")
    if state:
        return Fault(folder, "unfinished", f"status {state}; the same command goes on from there.")
    return Fault(folder, "foreign", "there is a config.yaml, but neither status.json nor metrics.json.")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error


def _yaml(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=cast(Any, _Loader))
