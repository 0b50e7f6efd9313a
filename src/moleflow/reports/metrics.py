"""Metrics of the report beyond those by which configurations are sorted."""

from collections.abc import Iterable

from moleflow.reports.comparison import Configuration
from moleflow.runs.content import METRICS

DECISION_METRICS = ("false_alarm_rate", "recall", "f1", "f1_max", "unknown_rate")
"""Metrics of decisions at a threshold, below the key ``decisions`` of newer runs."""
_WITHOUT_COLUMN = ("pro_5", "f1_max", "unknown_rate")
"""Metrics that a table of all metrics omits, because it would not fit into a window of 1400 pixels."""
LOWER_IS_BETTER = ("false_alarm_rate", "unknown_rate")
"""Metrics whose best value is the lowest."""


def metric_keys(metric: str) -> tuple[str, ...]:
    """Return the nested keys of a metric in ``metrics.json`` or in the entry of a category."""
    return ("decisions", metric) if metric in DECISION_METRICS else (metric,)


def available_metrics(configurations: Iterable[Configuration]) -> list[str]:
    """Return the metrics that at least one configuration has, in the order of the report's columns."""
    members = list(configurations)
    names = (*METRICS[:-1], "pro_5", METRICS[-1], *DECISION_METRICS)
    return [name for name in names if any(c.mean(*metric_keys(name)) is not None for c in members)]


def column_metrics(configurations: Iterable[Configuration]) -> list[str]:
    """Return the available metrics that are columns of tables with a column per metric."""
    return [metric for metric in available_metrics(configurations) if metric not in _WITHOUT_COLUMN]
