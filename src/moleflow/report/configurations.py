"""Configurations: runs that differ in nothing but the seed, and which configurations differ in a single key."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from moleflow.report.runs import Run
from moleflow.report.statistics import BySeed, Noise, pooled_noise
from moleflow.training.run_folder import CIRCUMSTANCES
from moleflow.values import flat

_NOT_SETTINGS = (
    *CIRCUMSTANCES,
    "name",
    "description",
    "reported",
    "expected",
    "hydra",
    "dataset.root",
    "features.batch_size",
)

# In the config these are `${...}` of another key; equal to it, they say nothing of their own.
_FOLLOWS = {
    "model.dim": "backbone.dim",
    "scoring.map_size": "transform.size",
    "transform.mean": "backbone.mean",
    "transform.std": "backbone.std",
}
_PART_NAMES = ("name", "_target_")  # keys by which a part of the model says which one it is
_OFF = (0, False, None, "none")


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs of equal settings on equal pictures; they differ in the seed alone.

    Attributes:
        runs: The runs, by seed.
        settings: What makes the configuration, as dotted keys.
        name: Short name in the report, ``C01`` for the best.
    """

    runs: list[Run]
    settings: dict[str, Any]
    name: str = ""

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.runs[0].label

    @property
    def dataset(self) -> str:
        """The data set in short."""
        return self.runs[0].dataset

    @cached_property
    def _values(self) -> dict[tuple[str, ...], dict[int, float]]:
        return {}

    def by_seed(self, *keys: str) -> BySeed:
        """Return a number of ``metrics.json`` by seed; of two runs with the same seed the first counts."""
        if keys not in self._values:
            found: dict[int, float] = {}
            for run in self.runs:
                value = run.value(*keys)
                if value is not None:
                    found.setdefault(run.seed, value)
            self._values[keys] = found
        return self._values[keys]

    def mean(self, *keys: str) -> float | None:
        """Return the mean over seeds, or None without a value."""
        values = self.by_seed(*keys)
        return fmean(values.values()) if values else None

    def sd(self, *keys: str) -> float | None:
        """Return the standard deviation over seeds, or None with fewer than two."""
        values = self.by_seed(*keys)
        return stdev(values.values()) if len(values) > 1 else None


@dataclass(frozen=True, eq=False)
class Group:
    """Configurations that differ in one key (or in one whole part of the model) and in nothing else.

    Attributes:
        key: The key.
        members: Value (as text) and configuration, in order of the value.
    """

    key: str
    members: list[tuple[str, Configuration]]


@dataclass(frozen=True, eq=False)
class Bench:
    """All configurations of one data set; only these are compared with one another.

    Attributes:
        dataset: Its name.
        configurations: The best first.
        metric: The metric by which they are ordered.
        groups: All groups that differ in one key.
    """

    dataset: str
    configurations: list[Configuration]
    metric: str
    groups: list[Group] = field(default_factory=list)

    @cached_property
    def noises(self) -> dict[str, Noise]:
        """The spread between seeds by metric, filled when asked for."""
        return {}

    def noise(self, metric: str) -> Noise:
        """Return the spread of a metric between seeds."""
        if metric not in self.noises:
            self.noises[metric] = pooled_noise(c.by_seed(metric) for c in self.configurations)
        return self.noises[metric]

    @property
    def best(self) -> Configuration:
        """The configuration with the highest mean."""
        return self.configurations[0]

    def neighbours(self, configuration: Configuration) -> list[tuple[str, str, str, Configuration]]:
        """Return what differs from a configuration in one key: key, value here, value there, the other."""
        found = []
        for group in self.groups:
            own = [value for value, member in group.members if member is configuration]
            if own:
                found += [(group.key, own[0], value, c) for value, c in group.members if c is not configuration]
        return found


def settings_of(run: Run) -> dict[str, Any]:
    """Return what makes a run's configuration: the config without seeds and circumstances."""
    config = flat(run.config)
    config["dataset.categories"] = run.categories  # null and the same order written out are the same
    for key, source in _FOLLOWS.items():
        if key in config and json.dumps(config[key]) == json.dumps(config.get(source)):
            del config[key]
    return {key: value for key, value in config.items() if not _excluded(key)}


def _excluded(key: str) -> bool:
    outside = any(key == prefix or key.startswith(f"{prefix}.") for prefix in _NOT_SETTINGS)
    return outside or key == "seed" or key.endswith(".seed")


def benches(runs: Iterable[Run], metric: str) -> list[Bench]:
    """Sort runs into configurations and these into benches, the largest bench first."""
    alike: dict[Any, list[Run]] = defaultdict(list)
    settings: dict[Any, dict[str, Any]] = {}
    for run in runs:
        own = settings_of(run)
        mark = (run.pictures, _mark(own))
        settings[mark] = own
        alike[mark].append(run)
    by_pictures: dict[Any, list[Configuration]] = defaultdict(list)
    for mark, members in alike.items():
        members.sort(key=lambda run: (run.seed, run.place))
        by_pictures[mark[0]].append(Configuration(members, settings[mark]))
    found: list[Bench] = []
    number = 0
    for rivals in sorted(by_pictures.values(), key=len, reverse=True):
        rivals.sort(key=lambda c: (-(m if (m := c.mean(metric)) is not None else -1.0), c.label))
        named = []
        for configuration in rivals:
            number += 1
            named.append(Configuration(configuration.runs, configuration.settings, f"C{number:02d}"))
        names = [bench.dataset for bench in found]
        dataset = named[0].dataset
        if dataset in names:  # the same data set by name, other categories
            dataset = f"{dataset} ({', '.join(sorted(named[0].runs[0].categories))})"
        found.append(Bench(dataset, named, metric, single_key_groups(named)))
    return found


def single_key_groups(configurations: Sequence[Configuration]) -> list[Group]:
    """Return all groups of at least two configurations that differ in one key, or in one part, and nothing else."""
    marks: list[dict[str, str]] = [{k: _text(v) for k, v in c.settings.items()} for c in configurations]
    every = {key for mark in marks for key in mark}
    varying = sorted(key for key in every if len({mark.get(key, "") for mark in marks}) > 1)
    parts = {key.rpartition(".")[0] for key in varying if key.rpartition(".")[2] in _PART_NAMES and "." in key}
    groups = []
    for unit in [*sorted(parts), *(key for key in varying if not _names_part(key, parts))]:
        buckets: dict[Any, list[int]] = defaultdict(list)
        for i, mark in enumerate(marks):
            rest = tuple((key, mark.get(key)) for key in varying if not _belongs(key, unit))
            buckets[rest].append(i)
        for members in buckets.values():
            if len(members) > 1:
                group = _group(unit, [configurations[i] for i in members], unit in parts)
                if group is not None:
                    groups.append(group)
    return groups


def differing_keys(a: Configuration, b: Configuration) -> list[str]:
    """Return the keys in which two configurations differ; a part of another kind counts once."""
    keys = sorted(k for k in {**a.settings, **b.settings} if _text(a.settings.get(k)) != _text(b.settings.get(k)))
    parts = {key.rpartition(".")[0] for key in keys if key.rpartition(".")[2] in _PART_NAMES and "." in key}
    return sorted(parts | {key for key in keys if not any(_belongs(key, part) for part in parts)})


def is_off(value: Any) -> bool:
    """Whether a value means that a component is left out: 0, false, null or none."""
    return any(value is off or (value == off and not isinstance(value, bool)) for off in _OFF)


def _group(unit: str, members: list[Configuration], is_part: bool) -> Group | None:
    if is_part:
        valued = [(part_name(c.settings, unit), c) for c in members]
        if len({name for name, _ in valued}) < len(valued):  # the same part with other settings: not this effect
            return None
    else:
        valued = [(shown(c.settings[unit]) if unit in c.settings else "(absent)", c) for c in members]
    return Group(unit, sorted(valued, key=lambda pair: _order(pair[0])))


def part_name(settings: Mapping[str, Any], part: str) -> str:
    """Return what a part of the model is called in the settings."""
    for key in _PART_NAMES:
        if f"{part}.{key}" in settings:
            name = str(settings[f"{part}.{key}"])
            return name.rsplit(".", 1)[-1] if key == "_target_" else name
    return "(absent)"


def shown(value: Any) -> str:
    """Return a setting as a person writes it."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _order(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def _belongs(key: str, unit: str) -> bool:
    return key == unit or key.startswith(f"{unit}.")


def _names_part(key: str, parts: set[str]) -> bool:
    head, _, tail = key.rpartition(".")
    return tail in _PART_NAMES and head in parts


def _text(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return json.dumps(float(value) if number else value, default=str)


def _mark(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, _text(value)) for key, value in settings.items()))
