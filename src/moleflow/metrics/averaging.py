"""Unweighted means of metrics that some categories lack."""

import math
from collections.abc import Iterable, Mapping


def nanmean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are neither None nor nan, or None if there are none."""
    defined = [value for value in values if value is not None and not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else None


def mean_over_categories(per_category: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the unweighted mean over categories of each metric.

    Missing values are left out: a category without masks has no pixel metrics, and one without test defects has nan.

    Args:
        per_category: Metrics by name of each category.

    Returns:
        The mean of each metric that any category has, or None if all its values are missing.
    """
    names = dict.fromkeys(name for metrics in per_category.values() for name in metrics)
    return {name: nanmean(metrics.get(name) for metrics in per_category.values()) for name in names}
