"""Section with all runs."""

from moleflow.reports.document import ReportData, Section
from moleflow.reports.tables import Cell, Table, run_cell, run_href
from moleflow.runs.content import METRICS


def run_table(data: ReportData) -> Section:
    """Return all runs with links to their files; ids elsewhere in the page link to this table."""
    table = Table("runs", "All runs", ("run", "id", "configuration", "data set", "seed", *METRICS, "finished", "files"))
    anchors: list[tuple[str, ...]] = []
    for group in data.groups:
        for c in group.configurations:
            for i, run in enumerate(c.runs):
                anchors.append((run_href(run)[1:], *([] if i else [c.id])))
                values = [run_cell(run, metric) for metric in METRICS]
                finished = str(run.metrics.get("finished", "–"))
                minute = finished[: len("2026-01-31T12:00")].replace("T", " ")
                files = Cell("folder", str(run.folder), data.file_link(run.folder))
                table.rows.append(
                    [Cell(run.run_id, run.run_id, data.file_link(run.folder / "metrics.json")), c.id]
                    + [c.label, group.dataset, run.seed]
                    + values + [Cell(minute, finished), files]
                )  # fmt: skip
    return Section("runs", "Runs", [table], anchors={table.name: anchors})
