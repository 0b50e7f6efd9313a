"""Tables and plots of a report as plain values."""

from collections.abc import Sequence
from pathlib import Path

from moleflow.reports.document import ReportOptions, Section
from moleflow.reports.page import SectionBuilder, build
from moleflow.reports.tables import Table
from moleflow.runs.reader import read_runs


def build_report(root: Path, options: ReportOptions | None = None, builder: str = "") -> list[Section]:
    """Return the sections of the report on all runs below a folder, or only the one from a named function."""
    runs, faults = read_runs([root])

    def selected(builders: Sequence[SectionBuilder]) -> list[SectionBuilder]:
        return [each for each in builders if each.__name__ == builder] if builder else list(builders)

    return build(runs, faults, options or ReportOptions(), root, selected)


def tables(sections: Sequence[Section]) -> dict[str, Table]:
    """Return the tables of a report by name."""
    return {table.name: table for section in sections for table in section.tables}


def columns(table: Table, *names: str) -> list[tuple[float | str, ...]]:
    """Return the values of some columns, row by row; the text of cells without a value."""
    indices = [list(table.columns).index(name) for name in names]
    return [tuple(row[i].text if (value := row[i].value) is None else value for i in indices) for row in table.cells]
