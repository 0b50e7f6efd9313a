"""Section on backbones and data sets: best configurations, and metrics by difficulty of the categories."""

from statistics import fmean

from moleflow.reports.comparison import ComparisonGroup, Configuration, component_name, differing_keys
from moleflow.reports.document import ReportData, Section
from moleflow.reports.metrics import column_metrics, metric_keys
from moleflow.reports.tables import Cell, Table, configuration_href, id_cell, metric_cell, number_cell
from moleflow.runs.identity import matches_any
from moleflow.utils.errors import list_names

_CLASSES = ("hard", "medium", "easy")


def backbones(data: ReportData) -> Section:
    """Return the best configuration of each data set and each backbone, also by difficulty class."""
    section = Section(
        "backbones", "Backbones and data sets", question="How do backbones and data sets compare?",
        absence="there is one backbone and one data set of fewer than three categories",
    )  # fmt: skip
    if len(data.groups) > 1:
        section.blocks.append(_data_sets(data))
    for i, group in enumerate(data.groups):
        best: dict[str, Configuration] = {}
        for c in group.configurations:
            best.setdefault(component_name(c.settings, "backbone"), c)
        if len(best) > 1:
            section.blocks.append(_backbones(group, best, i))
        classes = difficulty_classes(group, data.options.metric)
        if classes:
            section.blocks.append(_difficulty(group, best, classes, data.options.metric, i))
    return section


def difficulty_classes(group: ComparisonGroup, metric: str) -> dict[str, list[str]]:
    """Return thirds of the categories: hard, medium and easy, by the mean of a metric over all configurations.

    Args:
        group: The configurations of a data set.
        metric: The metric.

    Returns:
        Categories by class, from the hardest; empty with fewer than three categories.
    """
    means: dict[str, float] = {}
    for category in group.best.runs[0].per_category:
        values = [v for c in group.configurations if (v := c.mean("per_category", category, metric)) is not None]
        if values:
            means[category] = fmean(values)
    ranked = sorted(means, key=lambda category: means[category])
    count = len(ranked)
    if count < len(_CLASSES):
        return {}
    bounds = [round(i * count / len(_CLASSES)) for i in range(len(_CLASSES) + 1)]
    return {name: ranked[start:end] for name, start, end in zip(_CLASSES, bounds, bounds[1:], strict=False)}


def _data_sets(data: ReportData) -> Table:
    """Return the best configuration of each data set."""
    metrics = column_metrics(c for group in data.groups for c in group.configurations)
    table = Table(
        "datasets", "Best configuration per data set",
        ("data set", "configurations", "runs", "id", "configuration", *metrics),
        note="The rows are not comparable: they have different images.",
    )  # fmt: skip
    for group in data.groups:
        values = [metric_cell(group.best, *metric_keys(metric)) for metric in metrics]
        table.rows.append(
            [group.dataset, len(group.configurations), group.num_runs, id_cell(group.best), group.best.label, *values]
        )
    return table


def _backbones(group: ComparisonGroup, best: dict[str, Configuration], i: int) -> Table:
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
            list_names(others) or "none",
        ])  # fmt: skip
    return table


def _difficulty(
    group: ComparisonGroup, best: dict[str, Configuration], classes: dict[str, list[str]], metric: str, i: int
) -> Table:
    """Return the metric of the best configuration per backbone in each difficulty class."""
    table = Table(
        f"difficulty{i + 1}", f"{group.dataset}: {metric} by difficulty of the categories",
        ("difficulty", "categories", *(f"{backbone} ({c.id})" for backbone, c in best.items())),
        note="Classes are thirds of the categories by the mean over all configurations. Columns are the best "
        "configuration per backbone.",
    )  # fmt: skip
    for name, categories in classes.items():
        row: list[object] = [name, list_names(categories)]
        for c in best.values():
            values = [v for category in categories if (v := c.mean("per_category", category, metric)) is not None]
            row.append(Cell(f"{fmean(values):.4f}", fmean(values), configuration_href(c)) if values else None)
        table.rows.append(row)
    return table
