"""Sections on single keys: ablations of the baseline, effects of keys, backbones."""

from collections import defaultdict

from moleflow.report.comparison import (
    ComparisonGroup,
    Configuration,
    SingleKeyGroup,
    component_name,
    differing_keys,
)
from moleflow.report.document import ReportData, Section
from moleflow.report.statistics import Difference, compare
from moleflow.report.tables import (
    Table,
    configuration_href,
    difference_cell,
    id_cell,
    metric_cell,
    number_cell,
    verdict_cell,
)
from moleflow.runs.identity import matches_any
from moleflow.visualization.plots import Plot, effect_plot

_METRICS = ("pixel_ap", "image_auroc")
_MAX_LINES = 6  # per plot, to keep lines distinguishable
_MAX_PLOTS = 40


def ablations(data: ReportData) -> Section:
    """Return the effect of changing one key of the baseline."""
    section = Section("ablation", "Ablation")
    for i, group in enumerate(data.groups):
        metric, baseline = data.options.metric, data.baseline(group)
        table = Table(
            f"ablation{i + 1}",
            f"{group.dataset}: one key changed from the baseline {baseline.id} ({baseline.label})",
            ("key", "baseline", "value", "id", "configuration", "seeds", metric, "difference",
             "verdict", "test", "image_auroc difference"),
            note="Configurations that differ from the baseline in this key only. ± of a difference is the half width "
            "of the 95 % confidence interval.",
        )  # fmt: skip
        rows = []
        for key, reference_value, value, other in group.neighbors(baseline):
            difference = metric_difference(baseline, other, group, metric)
            if difference is None:
                continue
            image_difference = metric_difference(baseline, other, group, "image_auroc")
            row = [
                key, reference_value, value, id_cell(other), other.label,
                len(other.by_seed(metric)), metric_cell(other, metric), difference_cell(difference, other),
                verdict_cell(difference), difference.test, difference_cell(image_difference, other),
            ]  # fmt: skip
            rows.append((difference.value, row))
        table.rows = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
        named = _named_ablations(group, baseline, metric, i)
        section.blocks += [block for block in (table, named) if block.rows]
    return section


def effects(data: ReportData) -> Section:
    """Return the effect of each key in all groups of configurations that differ in this key only."""
    section = Section("effects", "Effects of single keys")
    metric = data.options.metric
    for i, group in enumerate(data.groups):
        baseline = data.baseline(group)
        by_key: dict[str, list[SingleKeyGroup]] = defaultdict(list)
        for single in group.single_key_groups:
            by_key[single.key].append(single)
        table = Table(
            f"effects{i + 1}",
            f"{group.dataset}: groups of configurations that differ in one key",
            ("key", "group", "value", "id", "seeds", *_METRICS, f"{metric} difference", "verdict", "test"),
            note="The configurations of a group are equal in all other keys. The reference is the baseline if the "
            "group contains it, else the group's first value.",
        )
        plots: list[Plot] = []
        for key in sorted(by_key, key=lambda key: -_max_range(by_key[key], metric)):
            singles = sorted(by_key[key], key=lambda s: (all(c is not baseline for _, c in s.members), -len(s.members)))
            for number, single in enumerate(singles, 1):
                table.rows += _effect_rows(single, f"{key} #{number}", baseline, group, metric)
            plots += [_plot(key, singles, name, group.dataset) for name in _METRICS if _is_plottable(singles, name)]
        if table.rows:
            section.blocks += [table, *plots[:_MAX_PLOTS]]
    return section


def backbones(data: ReportData) -> Section:
    """Return the best configuration of each backbone, and the other keys in which they differ."""
    section = Section("backbones", "Backbones")
    for i, group in enumerate(data.groups):
        best: dict[str, Configuration] = {}
        for c in group.configurations:
            best.setdefault(component_name(c.settings, "backbone"), c)
        if len(best) < 2:
            continue
        table = Table(
            f"backbones{i + 1}", f"{group.dataset}: best configuration per backbone",
            ("backbone", "id", "configuration", "image_auroc", "pixel_ap", "backbone parameters",
             "other keys that differ from the best"),
            note="If other keys differ too, the difference is not the effect of the backbone alone; see Effects of "
            "single keys.",
        )  # fmt: skip
        for backbone, c in best.items():
            others = [key for key in differing_keys(group.best, c) if not matches_any(key, ("backbone",))]
            table.rows.append([
                backbone, id_cell(c), c.label, metric_cell(c, "image_auroc"), metric_cell(c, "pixel_ap"),
                number_cell(c.mean("parameters", "backbone") or None, 0, configuration_href(c)),
                ", ".join(others) or "none",
            ])  # fmt: skip
        section.blocks.append(table)
    return section


def metric_difference(a: Configuration, b: Configuration, group: ComparisonGroup, metric: str) -> Difference | None:
    """Return the difference ``b - a`` of two configurations in a metric; None if one has no value."""
    left, right = a.by_seed(metric), b.by_seed(metric)
    return compare(left, right, group.noise(metric)) if left and right else None


def _named_ablations(group: ComparisonGroup, baseline: Configuration, metric: str, i: int) -> Table:
    """Return the runs with ``ablation=`` that differ from the baseline in several keys."""
    table = Table(
        f"ablation_several{i + 1}",
        "Named ablations that change several keys",
        ("ablation", "id", metric, "difference", "verdict", "keys"),
        note="The difference is the joint effect of all listed keys.",
    )
    for other in group.configurations:
        names = [o.split("=", 1)[1] for o in other.runs[0].overrides if o.lstrip("+~").startswith("ablation=")]
        keys = differing_keys(baseline, other)
        difference = metric_difference(baseline, other, group, metric)
        if names and len(keys) > 1 and difference is not None:
            table.rows.append([
                names[0], id_cell(other), metric_cell(other, metric), difference_cell(difference, other),
                verdict_cell(difference), ", ".join(keys),
            ])  # fmt: skip
    return table


def _effect_rows(
    single: SingleKeyGroup, name: str, baseline: Configuration, group: ComparisonGroup, metric: str
) -> list[list[object]]:
    reference = next((c for _, c in single.members if c is baseline), single.members[0][1])
    rows: list[list[object]] = []
    for value, member in single.members:
        row = [single.key, name, value, id_cell(member), len(member.by_seed(metric))]
        row += [metric_cell(member, shown) for shown in _METRICS]
        difference = None if member is reference else metric_difference(reference, member, group, metric)
        if difference is None:
            row += ["(reference)" if member is reference else None, "", ""]
        else:
            row += [difference_cell(difference, member), verdict_cell(difference), difference.test]
        rows.append(row)
    return rows


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
