"""Effects of single keys, tested and adjusted for the number of tests."""

from collections import defaultdict
from dataclasses import dataclass, replace

from moleflow.reports.comparison import ComparisonGroup, Configuration, SingleKeyGroup
from moleflow.reports.statistics import Difference, compare, holm

FAMILY_NOTE = (
    "± of a difference is the half width of its 95 % confidence interval over seeds (not over test images). Verdicts "
    "and p-values are adjusted by Holm's method for the number of tests: all comparisons with the baseline are one "
    "family, all other comparisons of single keys another."
)
"""Explanation of the tests, for the notes of tables."""


@dataclass(frozen=True, eq=False)
class Effect:
    """Difference of two configurations that differ in one key, or one component, only.

    Attributes:
        key: The key.
        number: Number of the group of configurations that are equal in all other keys, from 1 for each key.
        reference_value: Value of the key in the reference, as text.
        value: Value of the key in the configuration, as text.
        reference: The reference.
        configuration: The configuration.
        difference: Metric of the configuration minus that of the reference; None if one has no value.
    """

    key: str
    number: int
    reference_value: str
    value: str
    reference: Configuration
    configuration: Configuration
    difference: Difference | None


def single_key_effects(group: ComparisonGroup, baseline: Configuration, metric: str) -> list[Effect]:
    """Return the effects in all groups of configurations that differ in one key, largest groups of a key first.

    The reference of a group is the baseline if the group contains it, else the group's first value.

    Args:
        group: The configurations.
        baseline: The baseline.
        metric: The metric.
    """
    effects = []
    for key, singles in groups_by_key(group, baseline).items():
        for number, single in enumerate(singles, 1):
            start, reference = next((m for m in single.members if m[1] is baseline), single.members[0])
            effects += [
                Effect(key, number, start, value, reference, c, metric_difference(reference, c, group, metric))
                for value, c in single.members
                if c is not reference
            ]
    for of_baseline in (True, False):
        indices = [
            i for i, e in enumerate(effects) if e.difference is not None and (e.reference is baseline) == of_baseline
        ]
        adjusted = holm([d for i in indices if (d := effects[i].difference) is not None])
        for i, difference in zip(indices, adjusted, strict=True):
            effects[i] = replace(effects[i], difference=difference)
    return effects


def groups_by_key(group: ComparisonGroup, baseline: Configuration) -> dict[str, list[SingleKeyGroup]]:
    """Return the groups that differ in one key, by key; those with the baseline first, then the largest ones."""
    by_key: dict[str, list[SingleKeyGroup]] = defaultdict(list)
    for single in group.single_key_groups:
        by_key[single.key].append(single)
    for singles in by_key.values():
        singles.sort(key=lambda single: (all(c is not baseline for _, c in single.members), -len(single.members)))
    return by_key


def metric_difference(a: Configuration, b: Configuration, group: ComparisonGroup, metric: str) -> Difference | None:
    """Return the difference ``b - a`` of two configurations in a metric; None if one has no value."""
    left, right = a.by_seed(metric), b.by_seed(metric)
    return compare(left, right, group.noise(metric)) if left and right else None
