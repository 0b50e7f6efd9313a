"""Tables with four outputs: HTML page, Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from moleflow.reports.comparison import Configuration
from moleflow.reports.statistics import Difference
from moleflow.runs.reader import Run
from moleflow.utils.text import one_line, spreadsheet_text

_MAX_SHOWN = 1000  # characters of a cell; the CSV file has all
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "▲": r"$\uparrow$", "▼": r"$\downarrow$",
    "²": r"$^2$", "…": r"\ldots{}", **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The displayed text.
        value: Sort key on the page and content of the CSV file: a number or a text.
        href: Link target; empty for none.
        tone: ``good``, ``bad``, ``unsure`` or empty. Only adds color: the text has the same information.
        emphasis: ``best`` (bold), ``second`` (underlined), ``code`` or empty.
        shade: Position in [0, 1] on a color scale, of a matrix; None for no color.
    """

    text: str
    value: float | str | None = None
    href: str = ""
    tone: str = ""
    emphasis: str = ""
    shade: float | None = None

    @property
    def shown(self) -> str:
        """The text on one line, cut if it is very long."""
        return one_line(self.text, _MAX_SHOWN)

    def __html__(self) -> str:
        """Return the content as HTML: lines break inside long keys, but not after a sign."""
        text = str(escape(re.sub("([±▲▼=]) ", "\\1\N{NO-BREAK SPACE}", self.shown)))
        text = re.sub("([.=_])(?=[A-Za-z])", "\\1<wbr>", text)
        html = Markup(re.sub("^([^ ]+) (±\N{NO-BREAK SPACE}[0-9.]+)$", r"\1 <small>\2</small>", text))
        tag = {"best": "strong", "second": "u", "code": "code"}.get(self.emphasis)
        html = Markup(f"<{tag}>{html}</{tag}>") if tag else html
        return str(Markup('<a href="{}">{}</a>').format(self.href, html) if self.href else html)

    def markdown(self) -> str:
        """Return the content as Markdown that is valid in a table."""
        if self.emphasis == "code":
            fence = "`" * (1 + max((len(run) for run in re.findall("`+", self.shown)), default=0))
            return f"{fence} {self.shown} {fence}".replace("|", "\\|")
        text = re.sub(r"([\\`*<>\[\]|])", r"\\\1", self.shown)
        return {"best": f"**{text}**", "second": f"<u>{text}</u>"}.get(self.emphasis, text)

    def latex(self) -> str:
        """Return the content as LaTeX."""
        text = latex_text(self.shown)
        return {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}"}.get(self.emphasis, text)


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
        foot: Number of rows at the end that summarize the others.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: list[list[Any]] = field(default_factory=list)
    note: str = ""
    foot: int = 0

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
        lines = [f"### {Cell(self.title).markdown()}", ""]
        lines += [Cell(self.note).markdown(), ""] if self.note else []
        if not self.rows:
            return "\n".join([*lines, "(none)", ""])
        lines += ["| " + " | ".join(Cell(column).markdown() for column in self.columns) + " |"]
        lines += ["|" + " --- |" * len(self.columns)]
        lines += ["| " + " | ".join(cell.markdown() for cell in row) + " |" for row in self.cells]
        return "\n".join([*lines, ""])

    def csv(self) -> str:
        """Return the table as CSV, numbers in full precision; texts that a spreadsheet would execute are quoted."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(map(spreadsheet_text, self.columns))
        for row in self.cells:
            values = ("" if cell.value is None else cell.value for cell in row)
            writer.writerow([spreadsheet_text(value) if isinstance(value, str) else value for value in values])
        return out.getvalue()

    def latex(self) -> str:
        """Return the table as LaTeX, with the rules of ``booktabs`` and at most as wide as the text."""
        numeric = self.numeric_columns
        rows = [" & ".join(cell.latex() for cell in row) + r" \\" for row in self.cells]
        count = len(rows) - self.foot
        lines = [
            r"% \usepackage{booktabs, graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(f'{self.title}. {self.note}'.strip())}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{''.join('r' if i in numeric else 'l' for i in range(len(self.columns)))}}}",
            r"\toprule",
            " & ".join(map(_latex_head, self.columns)) + r" \\",
            r"\midrule",
            *rows[:count],
            *([r"\midrule", *rows[count:]] if self.foot else []),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def _latex_head(column: str) -> str:
    """Return the name of a column with one line per part."""
    lines = [latex_text(part) for part in re.split(r"(?<=,) | (?=\()", column)]
    stacked = r" \\ ".join(lines)
    return stacked if len(lines) == 1 else rf"\shortstack[r]{{{stacked}}}"


def latex_text(text: str) -> str:
    """Return a text with the special characters of LaTeX escaped."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


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


def range_text(mean: float, half_width: float | None, digits: int = 3) -> str:
    """Return a mean with an interval in brackets, without one if its half width is None."""
    if half_width is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{mean - half_width:.{digits}f}, {mean + half_width:.{digits}f}]"


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
    value: float | None,
    interval: float | None = None,
    href: str = "",
    is_significant: bool = True,
    lower_is_better: bool = False,
) -> Cell:
    """Return a difference with a sign that is readable without color.

    Args:
        value: The difference; None if there is none.
        interval: Half width of its confidence interval; None for none.
        href: Link target.
        is_significant: Whether to color it as good or bad.
        lower_is_better: Whether a negative difference is good.
    """
    if value is None:
        return Cell("–")
    sign = "▲" if value > 0 else "▼" if value < 0 else "="
    text = f"{sign} {value:+.4f}" + (f" ± {interval:.4f}" if interval is not None else "")
    tone = "" if value == 0 else "unsure" if not is_significant else "good" if (value > 0) != lower_is_better else "bad"
    return Cell(text, value, href, tone)


def difference_cell(difference: Difference | None, configuration: Configuration, lower_is_better: bool = False) -> Cell:
    """Return a difference with its confidence interval, linked to the runs of a configuration."""
    if difference is None:
        return Cell("–")
    href = configuration_href(configuration)
    return change_cell(difference.value, difference.interval, href, difference.is_significant, lower_is_better)


def verdict_cell(difference: Difference | None) -> Cell:
    """Return the verdict of a difference."""
    if difference is None:
        return Cell("–")
    tone = "" if difference.verdict in ("significant", "identical") else "unsure"
    return Cell(difference.verdict, difference.verdict, tone=tone)


def p_cell(difference: Difference | None) -> Cell:
    """Return the p-value of a difference."""
    if difference is None or difference.p_value is None:
        return Cell("–")
    text = "< 0.001" if difference.p_value < 0.001 else f"{difference.p_value:.3f}"
    return Cell(text, difference.p_value)
