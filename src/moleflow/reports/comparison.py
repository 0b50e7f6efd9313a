"""Grouping of runs into configurations, and of configurations that differ in a single key."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, NamedTuple

from moleflow.reports.statistics import Noise, pooled_noise
from moleflow.runs.identity import NON_IDENTITY_KEYS, matches_any, without_null
from moleflow.runs.reader import Run, as_mapping, values_by_seed
from moleflow.utils.config import flatten_config
from moleflow.utils.errors import list_names
from moleflow.utils.text import one_line

_EXCLUDED_KEYS = (*NON_IDENTITY_KEYS, "name", "hydra", "features.batch_size")

# References (`${...}`) to another key in the config files; left out while they equal it.
_REFERENCES = {
    "model.dim": "backbone.dim",
    "scoring.map_size": "transform.size",
    "transform.mean": "backbone.mean",
    "transform.std": "backbone.std",
}
_COMPONENT_KEYS = ("name", "_target_")  # keys that identify a component
_OFF_VALUES = (0, False, None, "none")
_ID_DIGITS = 7  # of the digest; with 1000 configurations two begin equally with a probability of 0.2 %
_MAX_LABEL_KEYS = 3
_MAX_LABEL = 160  # characters
_SEPARATOR = ", "


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs with equal settings on equal images, which differ only in the seed.

    Attributes:
        runs: The runs, sorted by seed.
        settings: Values of the dotted config keys that define the configuration, from :func:`identity_settings`.
        id: Stable name: a digest of settings, data set, categories and masks, so that it does not depend on other runs.
        label: The experiment name and overrides that most configurations of the group do not have.
    """

    runs: list[Run]
    settings: dict[str, Any]
    id: str
    label: str = ""

    @property
    def dataset(self) -> str:
        """Short description of data set, categories and masks."""
        return self.runs[0].dataset

    @cached_property
    def _values(self) -> dict[tuple[str, ...], dict[int, float]]:
        return {}

    def by_seed(self, *keys: str) -> dict[int, float]:
        """Return a value of ``metrics.json`` by seed; of several runs with one seed, the first that has it.

        Args:
            keys: Nested keys of the value, such as ``"oracle", "pixel_ap"``.
        """
        if keys not in self._values:
            self._values[keys] = values_by_seed(self.runs, *keys)
        return self._values[keys]

    def mean(self, *keys: str) -> float | None:
        """Return the mean over seeds of a value of ``metrics.json``; None without values.

        Args:
            keys: Nested keys of the value.
        """
        values = self.by_seed(*keys)
        return fmean(values.values()) if values else None

    def std(self, *keys: str) -> float | None:
        """Return the standard deviation over seeds of a value of ``metrics.json``; None with fewer than two seeds.

        Args:
            keys: Nested keys of the value.
        """
        values = self.by_seed(*keys)
        return stdev(values.values()) if len(values) > 1 else None


@dataclass(frozen=True, eq=False)
class SingleKeyGroup:
    """Configurations that differ in one key, or in one component with all of its keys, and in nothing else.

    Attributes:
        key: Dotted key, such as ``optimizer.lr``, or config group of the component, such as ``backbone``.
        members: Pairs of the value as text and the configuration, sorted by value.
    """

    key: str
    members: list[tuple[str, Configuration]]


class Neighbor(NamedTuple):
    """A configuration that differs from a reference in one key.

    Attributes:
        key: Dotted key, or config group of a component.
        reference_value: Value of the key in the reference, as text.
        value: Value of the key in ``configuration``, as text.
        configuration: The configuration that differs from the reference.
    """

    key: str
    reference_value: str
    value: str
    configuration: Configuration


@dataclass(frozen=True, eq=False)
class ComparisonGroup:
    """All configurations on the same images; only these are compared with one another.

    Attributes:
        dataset: Short description of data set, categories and masks.
        configurations: All configurations, sorted by ``metric`` from the best to the worst.
        metric: Key of ``metrics.json`` by whose mean the configurations are sorted, such as ``pixel_ap``.
        single_key_groups: Groups of the configurations that differ in one key or component.
    """

    dataset: str
    configurations: list[Configuration]
    metric: str
    single_key_groups: list[SingleKeyGroup] = field(default_factory=list)

    @cached_property
    def _noises(self) -> dict[str, Noise]:
        return {}

    def noise(self, metric: str) -> Noise:
        """Return the standard deviation of a metric over seeds, pooled over the configurations."""
        if metric not in self._noises:
            self._noises[metric] = pooled_noise(c.by_seed(metric) for c in self.configurations)
        return self._noises[metric]

    @property
    def best(self) -> Configuration:
        """The configuration with the highest mean of ``metric``."""
        return self.configurations[0]

    @property
    def num_runs(self) -> int:
        """Number of runs of all configurations."""
        return sum(len(c.runs) for c in self.configurations)

    def neighbors(self, reference: Configuration) -> list[Neighbor]:
        """Return the configurations that differ from ``reference`` in one key."""
        neighbors = []
        for single in self.single_key_groups:
            values = [value for value, member in single.members if member is reference]
            if values:
                neighbors += [
                    Neighbor(single.key, values[0], value, c) for value, c in single.members if c is not reference
                ]
        return neighbors


def identity_settings(run: Run) -> dict[str, Any]:
    """Return the config keys that define a run's configuration: without seeds and keys that do not affect results."""
    config = flatten_config(run.config)
    config["dataset.categories"] = run.categories  # null equals the full list
    for prefix in ("", *(f"feature_sets.{name}." for name in as_mapping(run.config.get("feature_sets")))):
        for key, source in _REFERENCES.items():
            if f"{prefix}{key}" in config and _text(config[f"{prefix}{key}"]) == _text(config.get(f"{prefix}{source}")):
                del config[f"{prefix}{key}"]
    return {key: value for key, value in config.items() if not _is_excluded(key)}


def comparison_groups(runs: Iterable[Run], metric: str) -> list[ComparisonGroup]:
    """Group runs into configurations, and configurations by their images; the largest group first.

    Args:
        runs: Finished runs.
        metric: Key of ``metrics.json`` by whose mean the configurations of a group are sorted.
    """
    runs_by_identity: dict[Any, list[Run]] = defaultdict(list)
    settings: dict[Any, dict[str, Any]] = {}
    for run in runs:
        run_settings = identity_settings(run)
        identity = (run.images, _hashable(without_null(run_settings)))
        settings[identity] = run_settings
        runs_by_identity[identity].append(run)
    ids = _stable_ids(runs_by_identity)
    by_images: dict[Any, list[Configuration]] = defaultdict(list)
    for identity, members in runs_by_identity.items():
        members.sort(key=lambda run: (run.seed, run.run_id))
        by_images[identity[0]].append(Configuration(members, settings[identity], ids[identity]))
    groups: list[ComparisonGroup] = []
    usual = _usual_parts([c for configurations in by_images.values() for c in configurations])
    for configurations in sorted(by_images.values(), key=len, reverse=True):
        labels = _labels(configurations, usual if len(configurations) == 1 else _usual_parts(configurations))
        labeled = [replace(c, label=label) for c, label in zip(configurations, labels, strict=True)]
        ranked = sorted(labeled, key=lambda c: (-(m if (m := c.mean(metric)) is not None else -1.0), c.label))
        dataset = ranked[0].dataset
        if any(dataset == group.dataset for group in groups):  # the same number of other categories
            dataset = f"{dataset} ({list_names(sorted(ranked[0].runs[0].categories))})"
        groups.append(ComparisonGroup(dataset, ranked, metric, find_single_key_groups(ranked)))
    return groups


def find_single_key_groups(configurations: Sequence[Configuration]) -> list[SingleKeyGroup]:
    """Return all groups of at least two configurations that differ in one key, or one component, and nothing else."""
    texts: list[dict[str, str]] = [{k: _text(v) for k, v in c.settings.items()} for c in configurations]
    varying = _varying_keys(texts)
    components = _differing_components(varying)
    # The sum of the hashes of all values, less those of one key, is equal for configurations that differ in this key.
    hashes = [{key: hash((key, text.get(key, _text(None)))) for key in varying} for text in texts]
    totals = [sum(values.values()) for values in hashes]
    groups = []
    for unit in [*sorted(components), *(key for key in varying if not _identifies_component(key, components))]:
        keys = [key for key in varying if matches_any(key, (unit,))]
        buckets: dict[int, list[int]] = defaultdict(list)
        for i, total in enumerate(totals):
            buckets[total - sum(hashes[i][key] for key in keys)].append(i)
        for members in buckets.values():
            if len(members) > 1:
                group = _single_key_group(unit, [configurations[i] for i in members], unit in components)
                if group is not None:
                    groups.append(group)
    return groups


def differing_keys(a: Configuration, b: Configuration) -> list[str]:
    """Return the keys in which two configurations differ; a different component counts as one key."""
    keys = sorted(k for k in {**a.settings, **b.settings} if _text(a.settings.get(k)) != _text(b.settings.get(k)))
    components = _differing_components(keys)
    return sorted(components | {key for key in keys if not matches_any(key, tuple(components))})


def is_off(value: Any) -> bool:
    """Return whether a value disables a component: 0, false, null or none."""
    return any(value is off or (value == off and not isinstance(value, bool)) for off in _OFF_VALUES)


def component_name(settings: Mapping[str, Any], component: str) -> str:
    """Return the name of a component such as ``backbone`` in the settings, ``(absent)`` if there is none."""
    for key in _COMPONENT_KEYS:
        if f"{component}.{key}" in settings:
            name = str(settings[f"{component}.{key}"])
            return name.rsplit(".", 1)[-1] if key == "_target_" else name
    return "(absent)"


def is_component(settings: Mapping[str, Any], key: str) -> bool:
    """Return whether a key is the config group of a component instead of a single value."""
    return any(f"{key}.{name}" in settings for name in _COMPONENT_KEYS)


def format_value(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    return one_line({"None": "null", "True": "true", "False": "false"}.get(str(value), str(value)))


def _stable_ids(identities: Iterable[Any]) -> dict[Any, str]:
    """Return an id per identity: the first digits of its digest, all of them if several begin equally."""
    digests = {identity: hashlib.sha256(repr(identity).encode(errors="replace")).hexdigest() for identity in identities}
    counts = Counter(digest[:_ID_DIGITS] for digest in digests.values())
    return {
        identity: "c" + (digest[:_ID_DIGITS] if counts[digest[:_ID_DIGITS]] == 1 else digest)
        for identity, digest in digests.items()
    }


def _usual_parts(configurations: Sequence[Configuration]) -> set[str]:
    """Return the parts of labels that more than half of the configurations have."""
    counts = Counter(part for c in configurations for part in set(c.runs[0].label_parts))
    return {part for part, count in counts.items() if count > len(configurations) / 2}


def _labels(configurations: Sequence[Configuration], usual: set[str]) -> list[str]:
    """Return a label per configuration: the parts of its command that are not usual.

    Configurations with equal labels are distinguished by what their commands do not all have, and then by values of
    keys in which they differ.
    """
    parts = [c.runs[0].label_parts for c in configurations]
    labels = [_label(own, usual) for own in parts]
    for label, count in Counter(labels).items():
        if count == 1:
            continue
        indices = [i for i, other in enumerate(labels) if other == label]
        common = set(parts[indices[0]]).intersection(*(parts[i] for i in indices[1:]))
        shown = set(label.split(_SEPARATOR))
        for i in indices:
            labels[i] = _label(parts[i], common - shown)
        if len({labels[i] for i in indices}) < count:
            texts = [{k: _text(v) for k, v in configurations[i].settings.items()} for i in indices]
            keys = _varying_keys(texts)[:_MAX_LABEL_KEYS]
            for i in indices:
                values = (f"{key}={format_value(configurations[i].settings.get(key))}" for key in keys)
                labels[i] = one_line(f"{labels[i]} ({_SEPARATOR.join(values)})", _MAX_LABEL)
    return labels


def _label(parts: Sequence[str], left_out: set[str]) -> str:
    """Return the remaining parts as one text; the first part, the experiment, if none remains."""
    return one_line(_SEPARATOR.join(part for part in parts if part not in left_out) or parts[0], _MAX_LABEL)


def _varying_keys(texts: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the sorted keys whose values are not all equal."""
    keys = {key for text in texts for key in text}
    return sorted(key for key in keys if len({text.get(key, _text(None)) for text in texts}) > 1)


def _is_excluded(key: str) -> bool:
    return matches_any(key, _EXCLUDED_KEYS) or key == "seed" or key.endswith(".seed")


def _single_key_group(unit: str, members: list[Configuration], is_whole_component: bool) -> SingleKeyGroup | None:
    if is_whole_component:
        pairs = [(component_name(c.settings, unit), c) for c in members]
        if len({name for name, _ in pairs}) < len(pairs):  # one component with other settings is another effect
            return None
    else:
        pairs = [(format_value(c.settings[unit]) if unit in c.settings else "(absent)", c) for c in members]
    return SingleKeyGroup(unit, sorted(pairs, key=lambda pair: _sort_key(pair[0])))


def _differing_components(keys: Iterable[str]) -> set[str]:
    """Return the components whose identifying key is one of the keys."""
    return {key.rpartition(".")[0] for key in keys if key.rpartition(".")[2] in _COMPONENT_KEYS and "." in key}


def _identifies_component(key: str, components: set[str]) -> bool:
    head, _, tail = key.rpartition(".")
    return tail in _COMPONENT_KEYS and head in components


def _sort_key(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def _text(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return json.dumps(float(value) if is_number else value, default=str)


def _hashable(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, _text(value)) for key, value in settings.items()))
