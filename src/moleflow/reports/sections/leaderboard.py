"""Section with all configurations, sorted by the report's metric."""

from moleflow.reports.comparison import differing_keys
from moleflow.reports.document import ReportData, Section
from moleflow.reports.metrics import column_metrics, metric_keys
from moleflow.reports.tables import Cell, Item, Table, id_cell, metric_cell
from moleflow.utils.errors import list_names

_NUM_KEYS = 5
"""Largest number of differing keys in the page; the CSV file has all."""


def leaderboard(data: ReportData) -> Section:
    """Return all configurations of each data set, sorted by the report's metric."""
    section = Section("leaderboard", "Leaderboard", question="Which configurations are best?")
    for i, group in enumerate(data.groups):
        baseline = data.baseline(group)
        metrics = column_metrics(group.configurations)
        table = Table(
            f"leaderboard{i + 1}",
            group.dataset,
            ("rank", "id", "configuration", "seeds", *metrics, "keys that differ from the baseline"),
            note=f"Sorted by {data.options.metric}; click a column to sort by it. The id of a configuration does not "
            "depend on other runs and is a value of --baseline, --compare and --benchmark. The configuration column "
            "has the part of its command that most of the others do not have.",
        )
        for rank, configuration in enumerate(group.configurations, 1):
            values = [metric_cell(configuration, *metric_keys(metric)) for metric in metrics]
            keys = differing_keys(baseline, configuration)
            seeds = len({run.seed for run in configuration.runs})
            changes: Item = "(baseline)"
            if configuration is not baseline:
                count = f"{len(keys)}: "
                changes = Cell(count + list_names(keys, _NUM_KEYS), count + ", ".join(keys))
            table.rows.append([rank, id_cell(configuration), configuration.label, seeds, *values, changes])
        section.blocks.append(table)
    return section
