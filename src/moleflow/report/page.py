"""Output of the report: a self-contained HTML page, Markdown, and one CSV file per table."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from moleflow.report.comparison import comparison_groups
from moleflow.report.document import ReportData, ReportOptions, Section
from moleflow.report.sections import (
    categories,
    continual,
    diagnostics,
    effects,
    overview,
    suggestions,
    synergy,
    warnings,
)
from moleflow.report.tables import Table
from moleflow.runs.reader import Fault, Run
from moleflow.utils.io import write_text
from moleflow.visualization.plots import Plot

SectionBuilder = Callable[[ReportData], Section]

SECTIONS: tuple[SectionBuilder, ...] = (
    overview.summary,
    warnings.warnings,
    overview.leaderboard,
    effects.ablations,
    effects.effects,
    synergy.synergy,
    categories.per_category,
    overview.trade_off,
    categories.datasets,
    effects.backbones,
    continual.continual,
    continual.images,
    diagnostics.diagnostics,
    overview.cost,
    overview.reported,
    suggestions.suggested_runs,
    overview.run_table,
)
"""Functions that build the sections, in the order of the page."""


def build(
    runs: Sequence[Run],
    faults: Sequence[Fault],
    options: ReportOptions,
    out: Path,
    progress: Callable[[Sequence[SectionBuilder]], Iterable[SectionBuilder]] = lambda builders: builders,
) -> list[Section]:
    """Return the sections of the report, without empty ones.

    Args:
        runs: Finished runs.
        faults: Run folders without usable results.
        options: Options of the report.
        out: The folder of the page; links to files are relative to it.
        progress: Wraps the functions that build the sections, for a progress bar.

    Raises:
        UserError: If an option names a configuration that does not exist.
    """
    groups = comparison_groups(runs, options.metric)
    data = ReportData(groups, list(faults), options, lambda target: file_link(target, out))
    if runs:
        data.check_options()
    sections = [builder(data) for builder in progress(SECTIONS)]
    return [section for section in sections if section.blocks]


def write(sections: Sequence[Section], out: Path, title: str, subtitle: str) -> Path:
    """Write ``index.html``, ``report.md`` and ``tables/*.csv``; return the path of the page.

    Args:
        sections: The sections from :func:`build`.
        out: The folder of the page.
        title: Heading.
        subtitle: One line below the heading.
    """
    tables = [block for section in sections for block in section.blocks if isinstance(block, Table)]
    for old in (out / "tables").glob("*.csv"):
        old.unlink()
    for table in tables:
        write_text(out / "tables" / f"{table.name}.csv", table.csv())
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
    environment.tests |= {"table": lambda b: isinstance(b, Table), "plot": lambda b: isinstance(b, Plot)}
    environment.filters["breakable"] = lambda name: escape(name).replace("_", Markup("_<wbr>"))  # narrower columns
    template = environment.from_string((package / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        sections=sections,
        title=title,
        subtitle=subtitle,
        style=Markup((package / "page.css").read_text(encoding="utf-8")),
        script=Markup((package / "page.js").read_text(encoding="utf-8")),
        as_json=_as_json,
    )


def markdown(sections: Sequence[Section], title: str, subtitle: str) -> str:
    """Return all paragraphs and tables as Markdown."""
    lines = [f"# {title}", "", subtitle, ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            if isinstance(block, Table):
                lines.append(block.markdown())
            elif isinstance(block, str):
                lines += [block, ""]
    return "\n".join(lines)


def file_link(target: Path, out: Path) -> str:
    """Return a link from the page's folder to a file, relative so that both can be moved together."""
    return quote(Path(os.path.relpath(target, out.resolve())).as_posix())


def _as_json(content: object) -> Markup:
    """Return JSON without ``<``, which could end the enclosing script element."""
    return Markup(json.dumps(content).replace("<", "\\u003c"))
