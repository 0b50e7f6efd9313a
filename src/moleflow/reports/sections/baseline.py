"""Section on the baseline: its metrics, settings that other configurations change, and neighbors."""

from collections import Counter

from moleflow.reports.comparison import ComparisonGroup, Configuration, component_name, format_value, is_component
from moleflow.reports.document import ReportData, Section
from moleflow.reports.metrics import LOWER_IS_BETTER, available_metrics, metric_keys
from moleflow.reports.statistics import compare
from moleflow.reports.tables import Cell, Table, difference_cell, metric_cell, verdict_cell


def baseline(data: ReportData) -> Section:
    """Return metrics and settings of the baseline of each data set."""
    section = Section("baseline", "Baseline", question="What is the baseline, and what does it achieve?")
    for i, group in enumerate(data.groups):
        reference = data.baseline(group)
        neighbors = group.neighbors(reference)
        reason = "selected by --baseline" if data.options.baseline else "the one with the most neighbors"
        note = f"The baseline is {reason}: {len(neighbors)} configurations differ from it in a single key. "
        note += "The difference is that of the configuration that is best in the metric of the report."
        table = Table(
            f"baseline{i + 1}", f"{group.dataset}: the baseline {reference.id} ({reference.label})",
            ("metric", "mean", "standard deviation", "seeds", "lowest", "highest", "best configuration", "difference",
             "verdict"),
            note="It is the only configuration on these images." if len(group.configurations) == 1 else note,
        )  # fmt: skip
        for metric in available_metrics([reference]):
            keys = metric_keys(metric)
            values, best = reference.by_seed(*keys), group.best.by_seed(*keys)
            difference = compare(values, best, group.noise(metric)) if best and group.best is not reference else None
            table.rows.append([
                metric, Cell(f"{reference.mean(*keys):.4f}", reference.mean(*keys)), reference.std(*keys), len(values),
                min(values.values()), max(values.values()), metric_cell(group.best, *keys),
                difference_cell(difference, group.best, metric in LOWER_IS_BETTER), verdict_cell(difference),
            ])  # fmt: skip
        section.blocks += [table, *([settings] if (settings := _settings(group, reference, i)).rows else [])]
    return section


def _settings(group: ComparisonGroup, reference: Configuration, i: int) -> Table:
    """Return the baseline's value of each key that its neighbors change."""
    table = Table(
        f"baseline_settings{i + 1}", f"{group.dataset}: settings of {reference.id} that were varied alone",
        ("key", "value", "other values", "configurations"),
    )  # fmt: skip
    counts = Counter(neighbor.key for neighbor in group.neighbors(reference))
    for key, count in sorted(counts.items()):
        value = (
            component_name(reference.settings, key)
            if is_component(reference.settings, key)
            else format_value(reference.settings.get(key))
        )
        others = [neighbor.value for neighbor in group.neighbors(reference) if neighbor.key == key]
        table.rows.append([key, value, ", ".join(dict.fromkeys(others)), count])
    return table
