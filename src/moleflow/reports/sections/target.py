"""Section on the distance to the target and what the weakest categories would have to gain."""

from collections.abc import Mapping

from moleflow.reports.comparison import ComparisonGroup
from moleflow.reports.document import ReportData, Section
from moleflow.reports.tables import Table, change_cell, configuration_href, id_cell, metric_cell


def target(data: ReportData) -> Section:
    """Return the distance of each data set's best configuration to the target, and ways to reach it."""
    section = Section(
        "target", "Distance to the target", question="How far is the target, and which categories have to gain?",
        absence=f"there is no target; --target sets one for {data.options.metric}",
    )  # fmt: skip
    metric = data.options.metric
    table = Table(
        "target", f"Target of {metric}",
        ("data set", "id", "configuration", metric, "target", "distance", "best configuration per category",
         "distance with these"),
        note="The best configuration per category is the mean over the highest values that any configuration has in "
        "each category: an upper bound of choosing among these configurations.",
    )  # fmt: skip
    for i, group in enumerate(data.groups):
        goal, best = data.target(group, metric), group.best
        mean = best.mean(metric)
        if goal is None or mean is None:
            continue
        highest = _highest_values(group, metric)
        bound = sum(highest.values()) / len(highest) if highest else None
        href = configuration_href(best)
        table.rows.append([
            group.dataset, id_cell(best), best.label, metric_cell(best, metric), goal,
            change_cell(mean - goal, href=href), bound, change_cell(None if bound is None else bound - goal, href=href),
        ])  # fmt: skip
        bottlenecks = _bottlenecks(group, metric, goal, highest, i)
        section.blocks += [bottlenecks] if bottlenecks.rows else []
    if table.rows:
        section.blocks.insert(0, table)
    return section


def required_level(values: Mapping[str, float], goal: float) -> float | None:
    """Return the level to which all lower values have to be raised so that the mean is the goal.

    Args:
        values: A metric by category.
        goal: The mean to reach.

    Returns:
        The level; None if the mean has reached the goal already.
    """
    ranked = sorted(values.values())
    missing = goal * len(ranked) - sum(ranked)
    if missing <= 0:
        return None
    for count in range(1, len(ranked) + 1):
        level = (sum(ranked[:count]) + missing) / count
        if count == len(ranked) or level <= ranked[count]:
            return level
    return None


def _highest_values(group: ComparisonGroup, metric: str) -> dict[str, float]:
    highest = {}
    for category in group.best.runs[0].per_category:
        values = [v for c in group.configurations if (v := c.mean("per_category", category, metric)) is not None]
        if values:
            highest[category] = max(values)
    return highest


def _bottlenecks(
    group: ComparisonGroup, metric: str, goal: float, highest: Mapping[str, float], i: int
) -> Table:  # fmt: skip
    """Return the categories below the level that the target requires, and their gains."""
    best = group.best
    values = {c: v for c in best.runs[0].per_category if (v := best.mean("per_category", c, metric)) is not None}
    level = required_level(values, goal)
    table = Table(
        f"target_gains{i + 1}", f"{group.dataset}: gains of {best.id} that reach {goal:g}",
        ("category", metric, "required", "gain", "share of the distance", "best of all configurations"),
    )  # fmt: skip
    if level is None:
        return table
    table.note = f"If only the lowest categories change, each of these has to reach {level:.4f}."
    if level > 1:
        table.note += " A metric above 1 is impossible, so other categories have to gain as well."
    missing = goal * len(values) - sum(values.values())
    for category in sorted(values, key=lambda c: values[c]):
        if values[category] < level:
            gain = level - values[category]
            table.rows.append([
                category, metric_cell(best, "per_category", category, metric), level, change_cell(gain), gain / missing,
                highest.get(category),
            ])  # fmt: skip
    return table
