"""What the finished runs below a folder say of the catalogue's entries."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from moleflow.catalogue.entries import METRICS, Entry, identity, resolved
from moleflow.catalogue.records import config_settings, experiment_rows, row_settings, tolerance
from moleflow.errors import UserError
from moleflow.files import read_json
from moleflow.training.run_folder import run_label


@dataclass(frozen=True)
class Run:
    """A finished run folder: its resolved configuration and its metrics."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def label(self) -> str:
        """What a person calls its configuration: the experiment, and what the command changed."""
        changed = run_label(self.metrics.get("overrides") or ())
        return str(self.config.get("name", self.folder.name)) + ("" if changed == "default" else f": {changed}")


def finished_runs(folder: Path) -> list[Run]:
    """Return all finished runs below a folder.

    Raises:
        UserError: If the folder does not exist, or a file of a run is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Name the folder that holds the run folders, usually runs.")
    return list(_finished(folder))


def measured(conf: Path, entries: Sequence[Entry], runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs of each entry's configuration, by the entry's kind and name.

    A run belongs to an entry if nothing that decides what is measured differs, whatever it was called.
    """
    rows = experiment_rows()
    settings = [config_settings(run.config) for run in runs]
    identities = [identity(run.config) for run in runs]
    result: dict[tuple[str, str], list[Run]] = {}
    for entry in entries:
        candidates = range(len(runs))
        if entry.kind == "experiment" and entry.name in rows and not entry.composed:  # spares composing most of them
            wanted = row_settings(rows[entry.name])
            candidates = [i for i in candidates if settings[i] == wanted]  # type: ignore[assignment]
        if not candidates:
            continue
        own = identity(resolved(conf, entry.overrides))
        matching = [runs[i] for i in candidates if identities[i] == own]
        if matching:
            result[entry.kind, entry.name] = matching
    return result


def others(runs: Sequence[Run], found: Mapping[tuple[str, str], Sequence[Run]]) -> list[list[Run]]:
    """Return the runs that belong to no entry, those of one configuration together."""
    known = {run.folder for own in found.values() for run in own}
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.folder not in known:
            alike[json.dumps(identity(run.config), sort_keys=True, default=str)].append(run)
    return list(alike.values())


def means(runs: Sequence[Run]) -> dict[str, float]:
    """Return the metrics' means over runs, seeds as they are; without those that a run lacks."""
    return {
        name: mean(run.metrics[name] for run in runs)
        for name in METRICS
        if all(run.metrics.get(name) is not None for run in runs)
    }


def verdict(entry: Entry, values: dict[str, float] | None) -> str:
    """Return how measured pixel AP stands to the target, within the noise of the seed.

    Args:
        entry: The entry.
        values: The measured means; None if there is no run.
    """
    if not entry.compare or "pixel_ap" not in entry.target:
        return "not compared"
    if values is None or "pixel_ap" not in values:
        return "not run"
    low, high = entry.target["pixel_ap"]
    slack = tolerance(entry.group) + 1e-9  # a difference of just the tolerance is a match
    if values["pixel_ap"] < low - slack:
        return "worse"
    return "better" if values["pixel_ap"] > high + slack else "match"


def _finished(folder: Path) -> Iterator[Run]:
    for path in sorted(folder.rglob("metrics.json")):
        config = path.parent / "config.yaml"
        metrics = read_json(path)
        if isinstance(metrics, dict) and metrics.get("status") == "finished" and config.is_file():
            yield Run(path.parent, _config(config), metrics)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}. Move the run folder away or restore the file.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is no configuration. Move the run folder away or restore the file.")
    return config
