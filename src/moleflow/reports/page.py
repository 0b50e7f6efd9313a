"""Output of the report: a self-contained HTML page, Markdown, one CSV file per table, and benchmarks in LaTeX."""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape
from tqdm import tqdm

from moleflow.reports.comparison import comparison_groups
from moleflow.reports.document import Block, Facts, Panel, ReportData, ReportOptions, Section, Sentence
from moleflow.reports.sections.ablation import ablation
from moleflow.reports.sections.backbones import backbones
from moleflow.reports.sections.baseline import baseline
from moleflow.reports.sections.benchmark import benchmark
from moleflow.reports.sections.categories import per_category
from moleflow.reports.sections.conclusions import conclusions
from moleflow.reports.sections.continual import continual
from moleflow.reports.sections.cost import cost
from moleflow.reports.sections.decisions import decisions
from moleflow.reports.sections.diagnostics import diagnostics
from moleflow.reports.sections.effects import effects
from moleflow.reports.sections.images import images
from moleflow.reports.sections.leaderboard import leaderboard
from moleflow.reports.sections.overview import overview
from moleflow.reports.sections.ranges import ranges
from moleflow.reports.sections.recommendation import recommendation
from moleflow.reports.sections.reported import reported
from moleflow.reports.sections.runs import run_table
from moleflow.reports.sections.search import search
from moleflow.reports.sections.suggestions import suggested_runs
from moleflow.reports.sections.synergy import synergy
from moleflow.reports.sections.target import target
from moleflow.reports.sections.trade_off import trade_off
from moleflow.reports.sections.warnings import warnings
from moleflow.reports.tables import Cell, Table
from moleflow.runs.content import METRICS
from moleflow.runs.reader import Fault, Run, read_runs
from moleflow.runs.searches import SearchRecord, read_searches
from moleflow.utils.errors import check_choice
from moleflow.utils.io import write_text
from moleflow.utils.text import count_text, printable
from moleflow.visualization.plots import Plot

SectionBuilder = Callable[[ReportData], Section]

SECTIONS: tuple[SectionBuilder, ...] = (
    overview,
    benchmark,
    leaderboard,
    trade_off,
    baseline,
    ablation,
    effects,
    synergy,
    search,
    per_category,
    decisions,
    recommendation,
    conclusions,
    target,
    backbones,
    ranges,
    suggested_runs,
    continual,
    images,
    diagnostics,
    cost,
    reported,
    warnings,
    run_table,
)
"""Functions that build the sections, in the order of the page."""


class WrittenReport(NamedTuple):
    """A report and its sources.

    Attributes:
        page: Path of the page.
        runs: The finished runs.
        faults: The run folders without usable results.
    """

    page: Path
    runs: list[Run]
    faults: list[Fault]


def write_report(
    roots: Sequence[Path], out: Path, options: ReportOptions, title: str = "Experiments", show_progress: bool = False
) -> WrittenReport:
    """Read all runs of some folders and write their report.

    Args:
        roots: Folders that hold runs, at any depth.
        out: The folder of the report.
        options: Options of the report.
        title: Heading of the page.
        show_progress: Whether to show progress bars.

    Raises:
        UserError: If a folder, the metric or a configuration does not exist.
    """
    check_choice("--metric", options.metric, METRICS)
    bar = partial(tqdm, leave=False, disable=None if show_progress else True)
    runs, faults = read_runs(roots, lambda folders: bar(folders, "runs", unit="run"))
    searches, damaged = read_searches(roots)
    faults += damaged
    subtitle = f"{count_text(len(runs), 'run')} from {', '.join(map(str, roots))}, {time.strftime('%Y-%m-%d %H:%M')}."
    if not runs:
        subtitle += " There is no finished run; the warnings list the other folders."
    sections = build(runs, faults, options, out, lambda builders: bar(builders, "sections"), searches)
    return WrittenReport(write(sections, out, title, subtitle), runs, faults)


def build(
    runs: Sequence[Run],
    faults: Sequence[Fault],
    options: ReportOptions,
    out: Path,
    progress: Callable[[Sequence[SectionBuilder]], Iterable[SectionBuilder]] = lambda builders: builders,
    searches: Sequence[tuple[Path, SearchRecord]] = (),
) -> list[Section]:
    """Return the sections of the report, without empty ones.

    Args:
        runs: Finished runs.
        faults: Run folders without usable results.
        options: Options of the report.
        out: The folder of the page; links to files are relative to it.
        progress: Wraps the functions that build the sections, for a progress bar.
        searches: Folder of the runs, and record of each search.

    Raises:
        UserError: If an option names a configuration that does not exist.
    """
    groups = comparison_groups(runs, options.metric)
    data = ReportData(groups, list(faults), options, lambda target: file_link(target, out), searches)
    if runs:
        data.check_options()
    sections = [builder(data) for builder in progress(SECTIONS)]
    if runs and sections and sections[0].name == "overview":
        sections[0].blocks.append(_contents(sections))
    return [section for section in sections if section.blocks]


def write(sections: Sequence[Section], out: Path, title: str, subtitle: str) -> Path:
    """Write ``index.html``, ``report.md``, ``tables/*.csv`` and ``tables/*.tex``; return the path of the page.

    Args:
        sections: The sections from :func:`build`.
        out: The folder of the page.
        title: Heading.
        subtitle: One line below the heading.
    """
    for pattern in ("*.csv", "*.tex"):
        for old in (out / "tables").glob(pattern):
            old.unlink()
    for section in sections:
        for table in (*section.tables, *section.files):
            write_text(out / "tables" / f"{table.name}.csv", table.csv())
        for table in section.files:
            write_text(out / "tables" / f"{table.name}.tex", table.latex())
    write_text(out / "report.md", markdown(sections, title, subtitle))
    page = out / "index.html"
    write_text(page, html(sections, title, subtitle))
    return page


def html(sections: Sequence[Section], title: str, subtitle: str) -> str:
    """Return the page as HTML."""
    package = files(__package__)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for kind in (Sentence, Facts, Table, Panel, Gallery):
        environment.tests[kind.__name__.lower()] = lambda block, kind=kind: isinstance(block, kind)
    environment.filters["breakable"] = lambda name: escape(name).replace("_", Markup("_<wbr>"))  # narrower columns
    template = environment.from_string((package / "page.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        sections=[(section, grouped(section.blocks)) for section in sections],
        title=title,
        subtitle=subtitle,
        style=Markup((package / "page.css").read_text(encoding="utf-8")),
        script=Markup((package / "page.js").read_text(encoding="utf-8")),
        as_json=_as_json,
    )
    return printable(page)


def markdown(sections: Sequence[Section], title: str, subtitle: str) -> str:
    """Return all paragraphs and tables as Markdown."""
    lines = [f"# {Cell(title).markdown()}", "", Cell(subtitle).markdown(), ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            match block:
                case Table():
                    lines.append(block.markdown())
                case Panel():
                    lines += [f"### {Cell(block.title).markdown()}", "", Cell(block.note).markdown(), ""]
                    lines += [table.markdown() for table in block.tables]
                case Facts():
                    lines += [f"* {name}: {cell.markdown()} ({detail})" for name, cell, detail in block.items] + [""]
                case Sentence():
                    lines += ["".join(cell.markdown() for cell in block.cells), ""]
                case str():
                    lines += [Cell(block).markdown(), ""]
    return printable("\n".join(lines))


@dataclass(frozen=True)
class Gallery:
    """Figures in a row."""

    plots: list[Plot]


def grouped(blocks: Sequence[Block]) -> list[Block | Gallery]:
    """Return the blocks with adjacent figures as one gallery."""
    result: list[Block | Gallery] = []
    for is_plot, group in groupby(blocks, lambda block: isinstance(block, Plot)):
        members = list(group)
        result += [Gallery(cast(list[Plot], members))] if is_plot else members
    return result


def file_link(target: Path, out: Path) -> str:
    """Return a link from the page's folder to a file, relative so that both can be moved together."""
    return quote(Path(os.path.relpath(target, out.resolve())).as_posix())


def _contents(sections: Sequence[Section]) -> Table:
    """Return the questions that a report of experiments answers, each with its section or the reason of its absence."""
    table = Table(
        "contents", "Contents by question", ("part", "question", "section"),
        note="Numbered like the parts of the report in which the recorded runs are described.",
    )  # fmt: skip
    for section in sections:
        if section.question:
            number = len(table.rows) + 1
            place = Cell(section.title, section.title, f"#{section.name}")
            table.rows.append([number, section.question, place if section.blocks else f"– ({section.absence})"])
    return table


def _as_json(content: object) -> Markup:
    """Return JSON without ``<``, which could end the enclosing script element."""
    return Markup(json.dumps(content).replace("<", "\\u003c"))
