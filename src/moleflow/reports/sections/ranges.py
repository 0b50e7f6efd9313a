"""Section on the recommended range of each key that was varied."""

import math

from moleflow.reports.comparison import ComparisonGroup, SingleKeyGroup
from moleflow.reports.document import ReportData, Section
from moleflow.reports.single_key import groups_by_key, metric_difference
from moleflow.reports.statistics import Difference, holm
from moleflow.reports.tables import Table, id_cell
from moleflow.utils.errors import list_names


def ranges(data: ReportData) -> Section:
    """Return the recommended values of each key, with the reason."""
    section = Section(
        "ranges", "Recommended ranges", question="Which values are recommended for each key, and why?",
        absence="no key was varied alone",
    )  # fmt: skip
    metric = data.options.metric
    for i, group in enumerate(data.groups):
        table = Table(
            f"ranges{i + 1}", f"{group.dataset}: values of keys that were varied alone",
            ("key", "tested values", "best value", "id", "recommended", "reason"),
            note="Each key is judged in one group of configurations that are equal in all other keys: the one with the "
            "best configuration, else the largest. Recommended is the best value with all values that are not "
            "significantly worse (Holm's method over all values of the table).",
        )  # fmt: skip
        table.rows += _rows(group, metric)
        section.blocks += [table] if table.rows else []
    return section


def _rows(group: ComparisonGroup, metric: str) -> list[list[object]]:
    """Return one row per key; the differences from the best values of all keys are one family of tests."""
    singles: list[SingleKeyGroup] = []
    for key, groups in sorted(groups_by_key(group, group.best).items()):
        members = [(value, c) for value, c in groups[0].members if c.mean(metric) is not None]
        if len(members) > 1:
            singles.append(SingleKeyGroup(key, members))
    bests = [max(single.members, key=lambda member: member[1].mean(metric) or 0.0) for single in singles]
    differences = [
        difference
        for single, (_, best) in zip(singles, bests, strict=True)
        for _, c in single.members
        if c is not best and (difference := metric_difference(best, c, group, metric)) is not None
    ]
    adjusted = iter(holm(differences))
    rows = []
    for single, (best_value, best) in zip(singles, bests, strict=True):
        values = [value for value, _ in single.members]
        by_value = {value: next(adjusted) for value, c in single.members if c is not best}
        recommended = [value for value in values if value == best_value or not by_value[value].is_significant]
        reason = _reason(values, best_value, by_value, metric)
        rows.append(
            [single.key, list_names(values), best_value, id_cell(best), _range(values, recommended), reason]
        )  # fmt: skip
    return rows


def _range(values: list[str], recommended: list[str]) -> str:
    """Return adjacent numbers as a range, other values as a list."""
    first, last = values.index(recommended[0]), values.index(recommended[-1])
    if len(recommended) > 2 and last - first == len(recommended) - 1 and all(_is_number(v) for v in recommended):
        return f"{recommended[0]} to {recommended[-1]}"
    return list_names(recommended)


def _reason(values: list[str], best_value: str, differences: dict[str, Difference], metric: str) -> str:
    worse = {value: d.value for value, d in differences.items() if d.is_significant}
    untested = all(d.verdict == "untested" for d in differences.values())
    parts = []
    if worse:
        parts.append("significantly worse: " + list_names([f"{value} ({d:+.4f})" for value, d in worse.items()]))
    elif untested:
        parts.append("no seeds to test the differences")
    else:
        largest = min(d.value for d in differences.values())
        parts.append(f"no significant difference in {metric} (largest {largest:+.4f})")
    if all(map(_is_number, values)) and best_value in (values[0], values[-1]) and len(values) > 2:
        parts.append(
            f"the best value is the {'lowest' if best_value == values[0] else 'highest'} tested: test beyond it"
        )
    return "; ".join(parts)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
