"""Reader of run folders. Unreadable folders become faults with a reason, not exceptions."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from moleflow.runs.naming import run_label
from moleflow.utils.errors import UserError

METRICS = ("pixel_ap", "image_auroc", "pixel_auroc", "image_ap", "pro", "routing_accuracy")
"""Metrics in ``metrics.json``, in the order of the report's columns."""

FaultKind = Literal["failed", "unfinished", "damaged", "unrecognized"]

_RUN_FILES = ("metrics.json", "status.json", "config.yaml")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # with libyaml 10 times faster


@dataclass(frozen=True)
class Fault:
    """A run folder without usable results.

    Attributes:
        folder: The folder.
        kind: ``failed``, ``unfinished``, ``damaged`` or ``unrecognized`` (files of another program).
        reason: One sentence.
    """

    folder: Path
    kind: FaultKind
    reason: str


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: Its folder.
        run_id: The folder relative to the searched folder; identifies the run in the report.
        config: Content of ``config.yaml``.
        metrics: Content of ``metrics.json``.
        overrides: Overrides of the command, from ``metrics.json``.
    """

    folder: Path
    run_id: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    overrides: tuple[str, ...] = field(default=())

    @property
    def label(self) -> str:
        """Experiment name and overrides, without seed and keys that do not affect results."""
        name = str(self.config.get("name", self.folder.parent.name))
        overrides = run_label(self.overrides)
        return name if overrides == "default" else f"{name}: {overrides.replace(',', ', ')}"

    @property
    def seed(self) -> int:
        """The seed; -1 if the config has none."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else -1

    @cached_property
    def dataset_name(self) -> str:
        """Name of the data set, for ``dataset=folder`` that of the folder; of several data sets all their names."""
        dataset = as_mapping(self.config.get("dataset"))
        if parts := as_mapping(dataset.get("parts")):
            return "+".join(map(str, parts))
        name = str(dataset.get("_target_", "unknown")).rsplit(".", 1)[-1].removesuffix("DataModule").lower()
        return Path(str(dataset.get("root", name))).name if name in ("folder", "unknown") else name

    @property
    def full_masks(self) -> bool:
        """Whether pixel metrics are measured on the full masks instead of the masks cropped to the model's view."""
        return self.config.get("masks") == "full"

    @cached_property
    def dataset(self) -> str:
        """Short description of data set, categories and masks."""
        categories = self.categories
        subset = categories[0] if len(categories) == 1 else f"{len(categories)} categories"
        return f"{self.dataset_name}, {subset}" + (", full masks" if self.full_masks else "")

    @property
    def images(self) -> tuple[str, tuple[str, ...]]:
        """Data set, masks and categories: runs are comparable only if these are equal."""
        return self.dataset, tuple(sorted(self.categories))

    @cached_property
    def categories(self) -> list[str]:
        """The categories in the order of the tasks."""
        tasks = as_mapping(self.metrics.get("task_matrix")).get("tasks")
        if isinstance(tasks, list):
            return list(dict.fromkeys(str(category) for task in tasks for category in task))
        return list(self.per_category)

    @property
    def per_category(self) -> dict[str, dict[str, Any]]:
        """Metrics by category."""
        return {str(k): as_mapping(v) for k, v in as_mapping(self.metrics.get("per_category")).items()}

    @property
    def is_trained(self) -> bool:
        """Whether the run made optimizer steps; closed-form models make none."""
        training = as_mapping(self.metrics.get("training"))
        return training.get("steps") != 0 or any(training.get("epochs") or ())

    @property
    def is_ensemble(self) -> bool:
        """Whether the run measured an ensemble of other runs."""
        return "ensemble" in self.config

    def value(self, *keys: str) -> float | None:
        """Return a finite value of ``metrics.json`` by its nested keys, or None."""
        return finite_number(self.metrics, *keys)

    def scores(self) -> list[dict[str, str]]:
        """Return the rows of ``scores.csv``; an empty list if the file is missing or damaged."""
        try:
            with (self.folder / "scores.csv").open(newline="", encoding="utf-8") as file:
                return [row for row in csv.DictReader(file) if None not in row.values()]
        except (OSError, ValueError, csv.Error):
            return []


def values_by_seed(runs: Iterable[Run], *keys: str) -> dict[int, float]:
    """Return a value of ``metrics.json`` by seed; of several runs with one seed, the first that has it."""
    values: dict[int, float] = {}
    for run in runs:
        value = run.value(*keys)
        if value is not None:
            values.setdefault(run.seed, value)
    return values


def read_runs(
    roots: Sequence[Path], progress: Callable[[list[Path]], Iterable[Path]] = lambda folders: folders
) -> tuple[list[Run], list[Fault]]:
    """Read all run folders below the given folders.

    Args:
        roots: Folders to search.
        progress: Wraps the list of run folders, for a progress bar.

    Raises:
        UserError: If a root is not a folder.
    """
    run_ids: dict[Path, str] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root} is not a folder. Name the folder that contains the run folders, such as runs/.")
        for folder in _run_folders(root.resolve()):
            run_id = folder.relative_to(root.resolve()).as_posix()
            run_ids.setdefault(folder, folder.name if run_id == "." else run_id)
    runs: list[Run] = []
    faults: list[Fault] = []
    for folder in progress(list(run_ids)):
        result = read_run(folder, run_ids[folder])
        if isinstance(result, Run):
            runs.append(result)
        else:
            faults.append(result)
    return runs, faults


def read_run(folder: Path, run_id: str = "") -> Run | Fault:
    """Read a run folder; return the finished run, or a fault with the reason.

    Args:
        folder: The run folder.
        run_id: Identifies the run in the report; by default the folder's name.
    """
    try:
        status = as_mapping(_read_json(folder / "status.json")) if (folder / "status.json").is_file() else {}
        if not (folder / "metrics.json").is_file():
            return _fault_without_metrics(folder, status)
        metrics = _read_json(folder / "metrics.json")
        if not isinstance(metrics, Mapping) or not isinstance(metrics.get("per_category"), Mapping):
            return Fault(folder, "unrecognized", "metrics.json is not from moleflow: it has no per_category.")
        if entry := _malformed_entry(metrics):
            return Fault(folder, "damaged", f"metrics.json has a malformed entry: {entry}.")
        if not (folder / "config.yaml").is_file():
            return Fault(folder, "damaged", "config.yaml is missing, so the configuration is unknown.")
        config = _read_yaml(folder / "config.yaml")
        if not isinstance(config, Mapping) or "dataset" not in config:
            return Fault(folder, "unrecognized", "config.yaml is not from moleflow: it has no dataset.")
        state = str(status.get("status", metrics.get("status")))
        if state != "finished":
            return _fault_by_status(folder, state, status)
    except (OSError, ValueError, RecursionError) as error:
        return Fault(folder, "damaged", " ".join(str(error).split())[:300])
    overrides = metrics.get("overrides")
    return Run(
        folder,
        run_id or folder.name,
        dict(config),
        dict(metrics),
        tuple(str(override) for override in overrides) if isinstance(overrides, list) else (),
    )


def load_run(folder: Path) -> Run:
    """Read a run folder that has to be a finished run.

    Raises:
        UserError: If it is not a finished run; the message contains the reason.
    """
    result = read_run(folder) if folder.is_dir() else Fault(folder, "unrecognized", "The folder does not exist.")
    if isinstance(result, Fault):
        raise UserError(f"{folder} is not a finished run ({result.kind}): {result.reason}")
    return result


def load_config(folder: Path) -> dict[str, Any]:
    """Read ``config.yaml`` of a run folder.

    Raises:
        UserError: If the file is missing or damaged.
    """
    path = folder / "config.yaml"
    try:
        config = _read_yaml(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Name a run folder, or restore the file.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}). Restore it or repeat the run.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it has no keys. Restore it or repeat the run.")
    return config


def as_mapping(value: Any) -> dict[str, Any]:
    """Return ``value`` as a dict if it is a mapping, else an empty dict: the content of a file is not validated."""
    return dict(value) if isinstance(value, Mapping) else {}


def finite_number(content: Any, *keys: str) -> float | None:
    """Return the number at the nested keys, or None if there is none or it is not finite."""
    for key in keys:
        content = as_mapping(content).get(key)
    if not isinstance(content, int | float) or isinstance(content, bool):
        return None
    try:
        return float(content) if math.isfinite(content) else None
    except OverflowError:  # an integer in JSON can exceed the range of a float
        return None


def _run_folders(root: Path) -> Iterator[Path]:
    """Yield every folder below ``root`` with files of a run, in sorted order; does not descend into runs."""
    for path, subfolders, files in os.walk(root, followlinks=False):
        subfolders.sort()
        if any(name in files for name in _RUN_FILES):
            # A folder with an unrelated config.yaml can contain run folders.
            subfolders[:] = [] if "status.json" in files or "metrics.json" in files else subfolders
            yield Path(path)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]


def _malformed_entry(metrics: Mapping[str, Any]) -> str:
    """Return the name of the first entry of ``metrics.json`` with a wrong structure, empty if there is none."""
    matrix, routing, training = (as_mapping(metrics.get(name)) for name in ("task_matrix", "routing", "training"))
    tasks = matrix.get("tasks", [])
    if not _is_list_of_lists(tasks) or not all(tasks):
        return "task_matrix.tasks"
    for name, rows in matrix.items():
        if name != "tasks" and not (_is_list_of_lists(rows) and all(len(row) <= len(tasks) for row in (rows, *rows))):
            return f"task_matrix.{name}"
    counts = routing.get("counts", {})
    if not isinstance(routing.get("experts", []), list) or not isinstance(counts, Mapping):
        return "routing"
    if any(finite_number({"n": n}, "n") is None for row in counts.values() for n in as_mapping(row).values()):
        return "routing.counts"
    epochs = training.get("epochs", [])
    if not _is_list_of_lists(epochs) or not all(isinstance(epoch, Mapping) for task in epochs for epoch in task):
        return "training.epochs"
    return ""


def _is_list_of_lists(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) for row in value)


def _fault_without_metrics(folder: Path, status: Mapping[str, Any]) -> Fault:
    state = str(status.get("status", ""))
    if state == "finished":
        return Fault(folder, "damaged", "metrics.json is missing, although the status is finished.")
    if state:
        return _fault_by_status(folder, state, status)
    if (folder / "config.yaml").is_file():
        return Fault(folder, "unrecognized", "The folder has a config.yaml, but no status.json and no metrics.json.")
    return Fault(folder, "unrecognized", "The folder has no status.json and no metrics.json.")


def _fault_by_status(folder: Path, state: str, status: Mapping[str, Any]) -> Fault:
    if state == "failed":
        return Fault(folder, "failed", str(status.get("reason", "")).strip() or "No reason is recorded.")
    return Fault(folder, "unfinished", f"The status is {state}. Run the same command again to resume.")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=cast(Any, _Loader))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
