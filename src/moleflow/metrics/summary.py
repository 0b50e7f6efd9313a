"""One number a metric: the plain mean over categories."""

import math
from collections.abc import Iterable, Mapping


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are neither None nor nan, or None if there is none."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None


def mean_over_categories(per_category: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the unweighted mean over categories of each metric.

    A category without masks has no pixel metrics, and one without test defects has nan: neither is counted.

    Args:
        per_category: For each category its metrics by name.

    Returns:
        For each metric that any category names, the mean, or None if no category has a value.
    """
    names = dict.fromkeys(name for metrics in per_category.values() for name in metrics)
    return {name: mean_of_known(metrics.get(name) for metrics in per_category.values()) for name in names}
