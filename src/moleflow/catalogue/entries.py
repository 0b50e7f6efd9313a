"""Entries of the catalogue: all experiments and ablations of the config folder, and the runs of each."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import OmegaConf

from moleflow.catalogue.records import Settings, config_settings, experiment_rows, row_settings
from moleflow.experiment.compose import compose_config
from moleflow.experiment.conf import read_config_file, read_description
from moleflow.runs.identity import NON_IDENTITY_KEYS, matches_any, without_null
from moleflow.runs.reader import Run
from moleflow.utils.config import flatten_config

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap")
"""Metrics of the recorded runs."""

_ABLATED = "mole6_dia2"
"""The experiment of the recorded ablations; also the group of their records."""

EntryKey = tuple[str, str]
"""Kind and name of an entry."""

# Runs of one configuration differ in these keys.
_IGNORED_KEYS = ("name", "seed", "model.seed", *NON_IDENTITY_KEYS)


@dataclass(frozen=True)
class Entry:
    """An experiment, or an ablation of the experiment ``mole6_dia2``.

    Attributes:
        kind: ``experiment`` or ``ablation``.
        name: Value of ``+experiment=`` or ``+ablation=``.
        group: Group of the recorded experiment, which has a recorded standard deviation over seeds; empty if there is
            no record.
        description: One sentence.
        record: Recorded or proposed metrics as (low, high), which are equal for a single value.
        compare: Whether runs are compared with the record.
        note: Reason for not comparing, or uncertainties of the record.
        composed: Whether the experiment includes ablations, so that its row does not describe it completely.
    """

    kind: Literal["experiment", "ablation"]
    name: str
    group: str
    description: str
    record: dict[str, tuple[float, float]]
    compare: bool
    note: str
    composed: bool

    @property
    def key(self) -> EntryKey:
        """Kind and name."""
        return self.kind, self.name

    @property
    def overrides(self) -> list[str]:
        """Overrides that select the entry."""
        base = [] if self.kind == "experiment" else [f"+experiment={_ABLATED}"]
        return [*base, f"+{self.kind}={self.name}"]


def entries(conf: Path) -> list[Entry]:
    """Return all entries of a config folder: experiments, then ablations, by name."""
    return [_read_entry(path) for kind in ("experiment", "ablation") for path in sorted((conf / kind).glob("*.yaml"))]


def resolve(conf: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the resolved configuration of a command, without its loggers and callbacks.

    Args:
        conf: The config folder.
        overrides: Overrides of the command.

    Raises:
        hydra.errors.HydraException: If the configuration cannot be composed.
    """
    config = compose_config(overrides, conf)
    unresolvable = ("hydra", "logger", "callbacks")  # contain the path of the run folder
    groups = [str(group) for group in config if group not in unresolvable]
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.masked_copy(config, groups), resolve=True))


def config_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a resolved configuration that affect results, except the seed, as dotted keys."""
    values = without_null(flatten_config(config))
    return {key: value for key, value in values.items() if not matches_any(key, _IGNORED_KEYS)}


def match_runs(conf: Path, catalogue: Sequence[Entry], runs: Sequence[Run]) -> dict[EntryKey, list[Run]]:
    """Return the runs of each entry's configuration, independent of their names, for the entries that have any.

    Args:
        conf: The config folder.
        catalogue: The entries.
        runs: Finished runs.
    """
    rows = experiment_rows()
    settings = [_settings(run) for run in runs]
    identities = [config_identity(run.config) for run in runs]
    matches: dict[EntryKey, list[Run]] = {}
    for entry in catalogue:
        candidates = list(range(len(runs)))
        if entry.kind == "experiment" and entry.name in rows and not entry.composed:  # avoids most compositions
            row = row_settings(rows[entry.name])
            candidates = [i for i in candidates if settings[i] == row]
        if not candidates:
            continue
        identity = config_identity(resolve(conf, entry.overrides))
        matching = [runs[i] for i in candidates if identities[i] == identity]
        if matching:
            matches[entry.key] = matching
    return matches


def unmatched_runs(runs: Sequence[Run], matches: Mapping[EntryKey, Sequence[Run]]) -> list[list[Run]]:
    """Return the runs that match no entry, one list per configuration."""
    matched = {run.folder for matching in matches.values() for run in matching}
    by_identity: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.folder not in matched:
            by_identity[json.dumps(config_identity(run.config), sort_keys=True, default=str)].append(run)
    return list(by_identity.values())


def _settings(run: Run) -> Settings | None:
    try:
        return config_settings(run.config)
    except (KeyError, TypeError, ValueError, AttributeError):  # an incomplete configuration equals no row
        return None


def _read_entry(path: Path) -> Entry:
    content = read_config_file(path)
    kind, name = cast(Literal["experiment", "ablation"], path.parent.name), path.stem
    block = content.get("reported") or content.get("expected") or {}
    record = {}
    for metric in METRICS:
        value = block.get(metric)
        if value is not None:
            low, high = value if isinstance(value, list) else (value, value)
            record[metric] = (float(low), float(high))
    group = _ABLATED if kind == "ablation" else experiment_rows().get(name, {}).get("group", "")
    return Entry(
        kind=kind,
        name=name,
        group=group,
        description=read_description(path),
        record=record,
        compare=bool(block.get("compare", True)) and bool(record),
        note=str(block.get("note") or ""),
        composed=any("/ablation/" in str(item) for item in content.get("defaults", ())),
    )
