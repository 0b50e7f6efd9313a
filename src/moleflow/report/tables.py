"""Tables: one value, three forms (page, Markdown, CSV)."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from moleflow.report.configurations import Configuration
from moleflow.report.runs import Run


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Attributes:
        text: What is read.
        value: What is sorted by and written to CSV: a number, or the text.
        href: Where it links to; empty for nowhere.
        tone: ``good``, ``bad``, ``unsure`` or empty; the text says the same, for readers without colours.
    """

    text: str
    value: float | str | None = None
    href: str = ""
    tone: str = ""

    def __html__(self) -> str:
        """The cell's content as HTML; what belongs to a sign stays on its line."""
        text = re.sub("([±▲▼=]) ", "\\1\N{NO-BREAK SPACE}", self.text)
        return str(Markup('<a href="{}">{}</a>').format(self.href, text) if self.href else escape(text))


Item = Cell | str | int | float | None


@dataclass
class Table:
    """Rows under named columns.

    Attributes:
        name: Name of the CSV file and of the place in the page.
        title: Heading.
        columns: Names of the columns.
        rows: One list a row, as long as the columns, of :data:`Item`.
        note: What the reader has to know, above the table.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: list[list[Any]] = field(default_factory=list)
    note: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """All rows as cells."""
        return [[cell(item) for item in row] for row in self.rows]

    @property
    def numeric(self) -> set[int]:
        """The columns that hold a number somewhere."""
        return {i for row in self.cells for i, c in enumerate(row) if isinstance(c.value, int | float)}

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [f"### {self.title}", ""]
        lines += [self.note, ""] if self.note else []
        if not self.rows:
            return "\n".join([*lines, "(none)", ""])
        lines += ["| " + " | ".join(self.columns) + " |", "|" + " --- |" * len(self.columns)]
        lines += ["| " + " | ".join(c.text.replace("|", "\\|") for c in row) + " |" for row in self.cells]
        return "\n".join([*lines, ""])

    def csv(self) -> str:
        """The table as CSV, numbers with every digit."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.cells:
            writer.writerow(["" if c.value is None else c.value for c in row])
        return out.getvalue()


def cell(item: Item) -> Cell:
    """Return any item as a cell."""
    if isinstance(item, Cell):
        return item
    if item is None:
        return Cell("–")
    if isinstance(item, float):
        return Cell(f"{item:.4g}", item)
    return Cell(str(item), item if isinstance(item, int) else str(item))


def run_link(run: Run) -> str:
    """Return the place of a run in the page."""
    return f"#run-{anchor(run.place)}"


def link(of: Configuration | Run) -> str:
    """Return the place of a run or a configuration in the page."""
    if isinstance(of, Run):
        return run_link(of)
    return run_link(of.runs[0]) if len(of.runs) == 1 else f"#{of.name}"


def anchor(text: str) -> str:
    """Return a text as an id: other characters become their code, so that no two texts give one id."""
    return "".join(c if c.isalnum() and c.isascii() else f"-{ord(c):x}" for c in text)


def name_cell(configuration: Configuration) -> Cell:
    """Return a configuration's short name, linked."""
    return Cell(configuration.name, configuration.name, link(configuration))


def metric_cell(configuration: Configuration, *keys: str) -> Cell:
    """Return a metric as mean ± sd (of n seeds), linked to its run or runs."""
    mean, sd = configuration.mean(*keys), configuration.sd(*keys)
    if mean is None:
        return Cell("–")
    text = f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"
    return Cell(text, mean, link(configuration))


def run_cell(run: Run, *keys: str, digits: int = 4) -> Cell:
    """Return a number of one run, linked to it."""
    value = run.value(*keys)
    return Cell("–") if value is None else Cell(f"{value:.{digits}f}", value, run_link(run))


def change_cell(value: float | None, interval: float | None = None, href: str = "", sure: bool = True) -> Cell:
    """Return a gain or loss with a sign that needs no colour."""
    if value is None:
        return Cell("–")
    sign = "▲" if value > 0 else "▼" if value < 0 else "="
    text = f"{sign} {value:+.4f}" + (f" ± {interval:.4f}" if interval is not None else "")
    tone = "" if value == 0 else "unsure" if not sure else "good" if value > 0 else "bad"
    return Cell(text, value, href, tone)


def plain_rows(table: Table) -> list[list[Any]]:
    """Return the values of a table, for tests and programs."""
    return [[c.value if c.value is not None else c.text for c in row] for row in table.cells]
