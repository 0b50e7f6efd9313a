"""Section on the effects of single keys."""

from collections import defaultdict

from moleflow.reports.comparison import Configuration, SingleKeyGroup
from moleflow.reports.document import ReportData, Section
from moleflow.reports.single_key import FAMILY_NOTE, Effect, groups_by_key
from moleflow.reports.tables import Table, difference_cell, id_cell, metric_cell, p_cell, verdict_cell
from moleflow.visualization.plots import Plot, effect_plot

_METRICS = ("pixel_ap", "image_auroc")
_MAX_LINES = 6  # per plot, to keep lines distinguishable
_MAX_PLOTS = 24


def effects(data: ReportData) -> Section:
    """Return the effect of each key in all groups of configurations that differ in this key only."""
    section = Section(
        "effects", "Effects of single keys", question="How does the metric depend on each key?",
        absence="no two configurations differ in a single key",
    )  # fmt: skip
    metric = data.options.metric
    for i, group in enumerate(data.groups):
        table = Table(
            f"effects{i + 1}",
            f"{group.dataset}: groups of configurations that differ in one key",
            ("key", "group", "value", "id", "seeds", *_METRICS, f"{metric} difference", "verdict", "p (Holm)", "test"),
            note="The configurations of a group are equal in all other keys. The reference is the baseline if the "
            f"group contains it, else the group's first value. {FAMILY_NOTE}",
        )
        by_group: dict[tuple[str, int], list[Effect]] = defaultdict(list)
        for member in data.effects(group, metric):
            by_group[member.key, member.number].append(member)
        for (key, number), members in by_group.items():
            name, first = f"{key} #{number}", members[0]
            reference: tuple[str, Configuration, Effect | None] = (first.reference_value, first.reference, None)
            for value, c, effect in (reference, *((e.value, e.configuration, e) for e in members)):
                row = [key, name, value, id_cell(c), len(c.by_seed(metric)), *(metric_cell(c, m) for m in _METRICS)]
                if effect is None or effect.difference is None:
                    row += ["(reference)" if effect is None else None, "", "", ""]
                else:
                    difference = effect.difference
                    row += [
                        difference_cell(difference, c), verdict_cell(difference), p_cell(difference), difference.test
                    ]  # fmt: skip
                table.rows.append(row)
        singles = groups_by_key(group, data.baseline(group))
        plots = [
            (key, name)
            for key in sorted(singles, key=lambda key: -_max_range(singles[key], metric))
            for name in _METRICS
            if _is_plottable(singles[key], name)
        ]
        if table.rows:
            section.blocks += [
                table,
                *(_plot(key, singles[key], name, group.dataset) for key, name in plots[:_MAX_PLOTS]),
            ]
        if len(plots) > _MAX_PLOTS:
            section.blocks.append(f"{len(plots) - _MAX_PLOTS} plots of keys with smaller effects are left out.")
    return section


def _is_plottable(singles: list[SingleKeyGroup], metric: str) -> bool:
    return any(sum(c.mean(metric) is not None for _, c in single.members) > 1 for single in singles)


def _plot(key: str, singles: list[SingleKeyGroup], metric: str, dataset: str) -> Plot:
    lines = []
    for number, single in enumerate(singles[:_MAX_LINES], 1):
        points = [(value, mean, c.std(metric)) for value, c in single.members if (mean := c.mean(metric)) is not None]
        lines.append((f"#{number}", points))
    plot = effect_plot(key, lines, metric)
    numbers = " The numbers are those of the groups in the table." if len(lines) > 1 else ""
    more = "" if len(singles) <= _MAX_LINES else f" {len(singles) - _MAX_LINES} smaller groups are in the table only."
    return Plot(f"{plot.title} ({dataset})", plot.uri, f"Error bars: standard deviation over seeds.{numbers}{more}")


def _max_range(singles: list[SingleKeyGroup], metric: str) -> float:
    ranges = []
    for single in singles:
        values = [mean for _, c in single.members if (mean := c.mean(metric)) is not None]
        ranges.append(max(values) - min(values) if values else 0.0)
    return max(ranges)
