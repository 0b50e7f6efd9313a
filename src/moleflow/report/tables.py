"""Tables with three outputs: HTML page, Markdown and CSV."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from moleflow.report.comparison import Configuration
from moleflow.report.statistics import Difference
from moleflow.runs.reader import Run


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The displayed text.
        value: Sort key on the page and content of the CSV file: a number or a text.
        href: Link target; empty for none.
        tone: ``good``, ``bad``, ``unsure`` or empty. Only adds color: the text has the same information.
    """

    text: str
    value: float | str | None = None
    href: str = ""
    tone: str = ""

    def __html__(self) -> str:
        """Return the content as HTML: lines break inside long keys, but not after a sign."""
        text = str(escape(re.sub("([±▲▼=]) ", "\\1\N{NO-BREAK SPACE}", self.text)))
        html = Markup(re.sub("([.=])(?=[A-Za-z_])", "\\1<wbr>", text))
        return str(Markup('<a href="{}">{}</a>').format(self.href, html) if self.href else html)


Item = Cell | str | int | float | None
"""Content of a table's cell; None is a missing value."""


@dataclass
class Table:
    """Rows with named columns.

    Attributes:
        name: Name of the CSV file and anchor in the page.
        title: Heading.
        columns: Names of the columns.
        rows: One list of :data:`Item` per row, as long as ``columns``.
        note: Explanation above the table.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: list[list[Any]] = field(default_factory=list)
    note: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """All rows as cells."""
        return [[to_cell(item) for item in row] for row in self.rows]

    @property
    def numeric_columns(self) -> set[int]:
        """Indices of the columns that contain a number."""
        return {i for row in self.cells for i, c in enumerate(row) if isinstance(c.value, int | float)}

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"### {self.title}", ""]
        lines += [self.note, ""] if self.note else []
        if not self.rows:
            return "\n".join([*lines, "(none)", ""])
        lines += ["| " + " | ".join(self.columns) + " |", "|" + " --- |" * len(self.columns)]
        lines += ["| " + " | ".join(c.text.replace("|", "\\|") for c in row) + " |" for row in self.cells]
        return "\n".join([*lines, ""])

    def csv(self) -> str:
        """Return the table as CSV, numbers in full precision."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.cells:
            writer.writerow(["" if c.value is None else c.value for c in row])
        return out.getvalue()


def to_cell(item: Item) -> Cell:
    """Return an item as a cell."""
    if isinstance(item, Cell):
        return item
    if item is None:
        return Cell("–")
    if isinstance(item, float):
        return Cell(f"{item:.4g}", item)
    return Cell(str(item), item if isinstance(item, int) else str(item))


def anchor(text: str) -> str:
    """Return a text as an HTML id. Other characters are replaced by their code, so different texts differ."""
    return "".join(c if c.isalnum() and c.isascii() else f"-{ord(c):x}" for c in text)


def run_href(run: Run) -> str:
    """Return the link to a run's row in the table of runs."""
    return f"#run-{anchor(run.run_id)}"


def configuration_href(configuration: Configuration) -> str:
    """Return the link to a configuration's runs in the table of runs."""
    return run_href(configuration.runs[0]) if len(configuration.runs) == 1 else f"#{configuration.id}"


def id_cell(configuration: Configuration) -> Cell:
    """Return a configuration's id, linked to its runs."""
    return Cell(configuration.id, configuration.id, configuration_href(configuration))


def metric_cell(configuration: Configuration, *keys: str) -> Cell:
    """Return a metric as mean ± standard deviation over seeds, linked to the configuration's runs."""
    mean, std = configuration.mean(*keys), configuration.std(*keys)
    if mean is None:
        return Cell("–")
    text = f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"
    return Cell(text, mean, configuration_href(configuration))


def run_cell(run: Run, *keys: str) -> Cell:
    """Return a value of ``metrics.json`` of one run, linked to the run."""
    value = run.value(*keys)
    return Cell("–") if value is None else Cell(f"{value:.4f}", value, run_href(run))


def number_cell(value: float | None, digits: int, href: str) -> Cell:
    """Return a number with spaces between groups of three digits."""
    return Cell("–") if value is None else Cell(f"{value:,.{digits}f}".replace(",", " "), value, href)


def change_cell(
    value: float | None, interval: float | None = None, href: str = "", is_significant: bool = True
) -> Cell:
    """Return a difference with a sign that is readable without color.

    Args:
        value: The difference; None if there is none.
        interval: Half width of its confidence interval; None for none.
        href: Link target.
        is_significant: Whether to color it as good or bad.
    """
    if value is None:
        return Cell("–")
    sign = "▲" if value > 0 else "▼" if value < 0 else "="
    text = f"{sign} {value:+.4f}" + (f" ± {interval:.4f}" if interval is not None else "")
    tone = "" if value == 0 else "unsure" if not is_significant else "good" if value > 0 else "bad"
    return Cell(text, value, href, tone)


def difference_cell(difference: Difference | None, configuration: Configuration) -> Cell:
    """Return a difference with its confidence interval, linked to the runs of a configuration."""
    if difference is None:
        return Cell("–")
    return change_cell(
        difference.value, difference.interval, configuration_href(configuration), difference.is_significant
    )


def verdict_cell(difference: Difference | None) -> Cell:
    """Return the verdict of a difference."""
    if difference is None:
        return Cell("–")
    tone = "" if difference.verdict in ("significant", "identical") else "unsure"
    return Cell(difference.verdict, difference.verdict, tone=tone)
