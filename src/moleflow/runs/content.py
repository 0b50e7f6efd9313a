"""Bounded parsing and checks of the files of a run folder, which may be damaged or come from strangers.

The values are those of the largest plausible runs with a wide margin. They bound the time and the memory that a single
folder can cost its reader.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from moleflow.utils.io import MAX_JSON_BYTES, read_regular
from moleflow.utils.text import one_line

MAX_CONFIG_BYTES = 2**20
"""Largest ``config.yaml``: some 200 times that of a run."""
MAX_SCORES_BYTES = 2**26
"""Largest ``scores.csv``: some 500 000 images."""
MAX_DEPTH = 32
"""Largest number of nested lists and mappings."""
MAX_CONFIG_KEYS = 2000
"""Largest number of keys in ``config.yaml``, nested ones included."""
MAX_CATEGORIES = 1000
"""Largest number of categories, and of tasks."""
MAX_NAME = 500
"""Largest number of characters in a key or in the name of a category, expert or configuration."""
MAX_TEXT = 10_000
"""Largest number of characters in any other text."""
MAX_MAGNITUDE = 1e30
"""Largest absolute value of a number: sums and squares of larger ones overflow."""
MAX_SEED = 2**63
"""Seeds are smaller."""

METRICS = ("pixel_ap", "image_auroc", "pixel_auroc", "image_ap", "pro", "routing_accuracy")
"""Metrics in ``metrics.json``, in the order of the report's columns; each in [0, 1] or null."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # with libyaml 10 times faster


def load_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the content of a JSON file of bounded size, depth and numbers.

    Args:
        path: The file.
        max_bytes: Largest size.

    Raises:
        ValueError: If it is not a regular file, is too large, is not JSON, or has an entry out of bounds; the message
            names the file and the entry.
        OSError: If it is missing or cannot be read.
    """
    content = read_regular(path, max_bytes)
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error
    check_values(parsed, path.name)
    return parsed


def load_yaml(path: Path) -> Any:
    """Return the content of ``config.yaml``, with the checks of :func:`load_json`; anchors and aliases are errors.

    Raises:
        ValueError: If it is not a regular file, is too large, is not YAML, or has an entry out of bounds.
        OSError: If it is missing or cannot be read.
    """
    text = read_regular(path, MAX_CONFIG_BYTES).decode("utf-8")
    try:
        _check_events(text, path.name)
        parsed = yaml.load(text, Loader=cast(Any, _Loader))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
    check_values(parsed, path.name)
    return parsed


def check_values(content: Any, name: str) -> None:
    """Check depth, numbers and lengths of texts of nested lists and mappings.

    Args:
        content: The nested content.
        name: Name of the file, for the message.

    Raises:
        ValueError: If a number is not finite or too large, a text too long, or the nesting too deep.
    """
    _check_value(content, name, ())


def check_config(config: Any) -> None:
    """Check the content of ``config.yaml``.

    Raises:
        ValueError: If it has too many keys, or a name or seed out of bounds.
    """
    count, stack = 0, [config]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            count += len(value)
            stack += value.values()
    if count > MAX_CONFIG_KEYS:
        raise ValueError(f"config.yaml has {count} keys and must have at most {MAX_CONFIG_KEYS}")
    name, seed = config.get("name", ""), config.get("seed", 0)
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise ValueError(f"config.yaml: name must be a text of at most {MAX_NAME} characters")
    if isinstance(seed, int) and abs(seed) >= MAX_SEED:
        raise ValueError("config.yaml: seed must be smaller than 2^63")


def check_metrics(metrics: Mapping[str, Any]) -> None:
    """Check structure, sizes and ranges of ``metrics.json``, as far as its readers depend on them.

    Raises:
        ValueError: If an entry is malformed; the message has its keys and what it must be.
    """
    per_category = metrics["per_category"]
    _check_count("per_category", per_category)
    _check_metric_values("", metrics)
    _check_metric_values("oracle", _mapping(metrics, "oracle"))
    for category, values in per_category.items():
        place = f"per_category.{category}"
        _check_name(place, category)
        if not isinstance(values, Mapping):
            raise _malformed(place, values, "a mapping")
        _check_metric_values(place, values)
        _check_metric_values(f"{place}.oracle", _mapping(values, "oracle", place))
        if isinstance(values.get("expert"), str):
            _check_name(f"{place}.expert", values["expert"])
    for name in ("forgetting", "backward_transfer"):
        for metric, value in _mapping(metrics, name).items():
            _check_range(f"{name}.{metric}", value, -1.0)
    _check_task_matrix(_mapping(metrics, "task_matrix"))
    _check_routing(_mapping(metrics, "routing"))
    epochs = _mapping(metrics, "training").get("epochs", [])
    if not _is_list_of_lists(epochs) or not all(isinstance(epoch, Mapping) for task in epochs for epoch in task):
        raise _malformed("training.epochs", epochs, "a list of mappings per task")
    overrides = metrics.get("overrides", [])
    if not isinstance(overrides, list) or len(overrides) > MAX_CONFIG_KEYS:
        raise _malformed("overrides", overrides, f"a list of at most {MAX_CONFIG_KEYS} texts")
    for i, override in enumerate(overrides):
        if not isinstance(override, str):
            raise _malformed(f"overrides.{i}", override, "a text")


def _check_value(value: Any, name: str, keys: tuple[Any, ...]) -> None:
    if isinstance(value, str | bytes):
        if len(value) > MAX_TEXT:
            raise ValueError(f"{_place(name, keys)} has {len(value)} characters and must have at most {MAX_TEXT}")
    elif isinstance(value, int | float):
        if not -MAX_MAGNITUDE <= value <= MAX_MAGNITUDE:  # nan is in no interval
            raise ValueError(
                f"{_place(name, keys)} is {one_line(str(value), 30)} and must be finite, at most {MAX_MAGNITUDE:g}"
            )
    elif isinstance(value, Mapping | list | tuple | set):
        if len(keys) >= MAX_DEPTH:
            raise ValueError(f"{_place(name, keys[:3])} has more than {MAX_DEPTH} nested levels")
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(key, str) and len(key) > MAX_NAME:
                raise ValueError(f"{_place(name, keys)} has a key of more than {MAX_NAME} characters")
            _check_value(item, name, (*keys, key))


def _check_events(text: str, name: str) -> None:
    """Check depth and aliases before anything is constructed: aliases of aliases expand without bound."""
    depth = 0
    for event in yaml.parse(text, Loader=cast(Any, _Loader)):
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            raise ValueError(f"{name} has the anchor or alias {one_line(anchor, 30)!r}, which runs do not write")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"{name} has more than {MAX_DEPTH} nested levels")


def _check_metric_values(place: str, values: Mapping[str, Any]) -> None:
    for metric in METRICS:
        _check_range(f"{place}.{metric}" if place else metric, values.get(metric), 0.0)


def _check_range(place: str, value: Any, low: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and low <= value <= 1.0):
        raise _malformed(place, value, f"null or in [{low:g}, 1]")


def _check_task_matrix(matrix: Mapping[str, Any]) -> None:
    tasks = matrix.get("tasks", [])
    if not _is_list_of_lists(tasks) or not all(tasks):
        raise _malformed("task_matrix.tasks", tasks, "a list of categories per task")
    _check_count("task_matrix.tasks", tasks)
    _check_count("task_matrix.tasks", [category for task in tasks for category in task])
    for i, category in ((i, category) for i, task in enumerate(tasks) for category in task):
        _check_name(f"task_matrix.tasks.{i}", category)
    for name, rows in matrix.items():
        if name == "tasks":
            continue
        if not _is_list_of_lists(rows) or not all(len(row) <= len(tasks) for row in (rows, *rows)):
            raise _malformed(f"task_matrix.{name}", rows, "a list per task, none longer than the number of tasks")
        for i, row in enumerate(rows):
            for value in row:
                _check_range(f"task_matrix.{name}.{i}", value, 0.0)


def _check_routing(routing: Mapping[str, Any]) -> None:
    experts = routing.get("experts", [])
    if not isinstance(experts, list):
        raise _malformed("routing.experts", experts, "a list of names")
    _check_count("routing.experts", experts)
    for i, expert in enumerate(experts):
        _check_name(f"routing.experts.{i}", expert)
    counts = _mapping(routing, "counts", "routing")
    _check_count("routing.counts", counts)
    for category in counts:
        row = _mapping(counts, category, "routing.counts")
        _check_count(f"routing.counts.{category}", row)
        for expert, count in row.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise _malformed(f"routing.counts.{category}.{expert}", count, "a number of images")


def _check_count(place: str, entries: Sequence[Any] | Mapping[Any, Any]) -> None:
    if len(entries) > MAX_CATEGORIES:
        raise ValueError(
            f"metrics.json: {_place(place, ())} has {len(entries)} entries and must have at most {MAX_CATEGORIES}"
        )


def _check_name(place: str, name: Any) -> None:
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise _malformed(place, name, f"a text of at most {MAX_NAME} characters")


def _mapping(content: Mapping[str, Any], key: str, place: str = "") -> Mapping[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, Mapping):
        raise _malformed(f"{place}.{key}" if place else key, value, "a mapping")
    return value


def _malformed(place: str, value: Any, allowed: str) -> ValueError:
    shown = one_line(json.dumps(value, default=str), 60)
    return ValueError(f"metrics.json has a malformed entry: {_place(place, ())} is {shown} and must be {allowed}")


def _is_list_of_lists(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) for row in value)


def _place(name: str, keys: tuple[Any, ...]) -> str:
    """Return the file and the keys of an entry."""
    place = ".".join(one_line(str(key), 60) for key in keys)
    return f"{one_line(name, 120)}: {place}" if place else one_line(name, 120)
