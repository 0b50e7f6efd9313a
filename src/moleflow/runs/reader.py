"""Reader of run folders. Unreadable folders become faults with a reason, not exceptions."""

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from moleflow.runs.content import (
    MAX_MAGNITUDE,
    MAX_NAME,
    MAX_SCORES_BYTES,
    check_config,
    check_metrics,
    load_json,
    load_yaml,
)
from moleflow.runs.naming import identity_overrides
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_regular
from moleflow.utils.text import one_line

MAX_RUNS = 5000
"""Largest number of run folders that are read."""

FaultKind = Literal["failed", "pruned", "unfinished", "damaged", "unrecognized", "too many"]

_MAX_REASON = 300  # characters of a fault's reason
_MAX_PART = 120  # characters of the name or of one override in a label
_RUN_FILES = ("metrics.json", "status.json", "config.yaml")


@dataclass(frozen=True)
class Fault:
    """A run folder without usable results.

    Attributes:
        folder: The folder.
        kind: ``failed``, ``pruned`` (ended early by a search), ``unfinished``, ``damaged``, ``unrecognized`` (files of
            another program), or ``too many`` (the searched folder has more run folders than are read).
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
    config: dict[str, Any] = field(repr=False)
    metrics: dict[str, Any] = field(repr=False)
    overrides: tuple[str, ...] = field(default=())

    @property
    def label(self) -> str:
        """Experiment name and overrides, without seed and keys that do not affect results."""
        name, *overrides = self.label_parts
        return f"{name}: {', '.join(overrides)}" if overrides else name

    @cached_property
    def label_parts(self) -> tuple[str, ...]:
        """Experiment name, then the sorted overrides without seed and keys that do not affect results."""
        name = str(self.config.get("name", self.folder.parent.name))
        return tuple(one_line(part, _MAX_PART) for part in (name, *sorted(identity_overrides(self.overrides))))

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
        """Return the rows of ``scores.csv``; each has a category, a finite ``image_score`` and the ``label`` 0 or 1.

        Raises:
            UserError: If the file is missing or damaged; the message names the row.
        """
        path, rows = self.folder / "scores.csv", []
        try:
            text = read_regular(path, MAX_SCORES_BYTES).decode("utf-8")
            for row in csv.DictReader(io.StringIO(text, newline="")):
                if not abs(float(row["image_score"])) <= MAX_MAGNITUDE or row["label"] not in ("0", "1"):
                    raise ValueError(f"image_score={row['image_score']}, label={row['label']}")
                if None in row or len(row["category"]) > MAX_NAME:
                    raise ValueError("too many or too long entries")
                rows.append(row)
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            reason = one_line(str(error), _MAX_REASON)
            raise UserError(f"{path} is damaged after {len(rows)} rows ({reason}).") from error
        return rows


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
    faults: list[Fault] = []
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root} is not a folder. Name the folder that contains the run folders, such as runs/.")
        for folder in (folder for folder, is_run in walk(root.resolve()) if is_run):
            if len(run_ids) == MAX_RUNS and folder not in run_ids:
                reason = f"Only the first {MAX_RUNS} run folders are read. Name the folders of fewer runs."
                faults.append(Fault(root, "too many", reason))
                break
            run_id = folder.relative_to(root.resolve()).as_posix()
            run_ids.setdefault(folder, folder.name if run_id == "." else run_id)
    runs: list[Run] = []
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
        status = as_mapping(load_json(folder / "status.json")) if (folder / "status.json").exists() else {}
        if not (folder / "metrics.json").exists():
            return _fault_without_metrics(folder, status)
        metrics = load_json(folder / "metrics.json")
        if not isinstance(metrics, Mapping) or not isinstance(metrics.get("per_category"), Mapping):
            return Fault(folder, "unrecognized", "metrics.json is not from moleflow: it has no per_category.")
        check_metrics(metrics)
        if not (folder / "config.yaml").exists():
            return Fault(folder, "damaged", "config.yaml is missing, so the configuration is unknown.")
        config = load_yaml(folder / "config.yaml")
        if not isinstance(config, Mapping) or "dataset" not in config:
            return Fault(folder, "unrecognized", "config.yaml is not from moleflow: it has no dataset.")
        check_config(config)
        state = str(status.get("status", metrics.get("status")))
        if state != "finished":
            return _fault_by_status(folder, state, status)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        return Fault(folder, "damaged", one_line(str(error).rstrip("."), _MAX_REASON) + ".")
    return Run(folder, run_id or folder.name, dict(config), dict(metrics), tuple(metrics.get("overrides", ())))


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
        config = load_yaml(path)
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


def walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield every folder below a folder, and whether it has files of a run, in sorted order.

    The folders inside of a run folder, and those whose name begins with a dot, are left out.

    Args:
        root: The folder, itself included.
    """
    for path, subfolders, files in os.walk(root, followlinks=False):
        # A folder with an unrelated config.yaml can contain run folders.
        is_run = "status.json" in files or "metrics.json" in files
        subfolders[:] = [] if is_run else sorted(name for name in subfolders if not name.startswith("."))
        yield Path(path), any(name in files for name in _RUN_FILES)


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
        reason = one_line(str(status.get("reason", "")).strip(), _MAX_REASON)
        return Fault(folder, "failed", reason or "No reason is recorded.")
    if state == "pruned":
        return Fault(folder, "pruned", one_line(str(status.get("reason", "")).strip(), _MAX_REASON))
    reason = f"The status is {one_line(state, 30)}. Run the same command again to resume."
    return Fault(folder, "unfinished", reason)
