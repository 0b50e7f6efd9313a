"""Puts the sections into files: one page that needs nothing else, Markdown, and a CSV a table."""

import json
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from moleflow.files import write_text
from moleflow.report import categories, continual, diagnostics, doubts, effects, overview, synergy, untried
from moleflow.report.configurations import benches
from moleflow.report.content import Content, Options, Section
from moleflow.report.plots import Plot
from moleflow.report.runs import Fault, Run
from moleflow.report.tables import Table

SECTIONS: tuple[Callable[[Content], Section], ...] = (
    overview.summary,
    doubts.warnings,
    overview.leaderboard,
    effects.ablations,
    effects.effects,
    synergy.synergy,
    categories.per_category,
    overview.pareto,
    categories.datasets,
    effects.backbones,
    continual.continual,
    continual.pictures,
    diagnostics.diagnostics,
    overview.cost,
    overview.reported,
    untried.not_tried,
    overview.run_table,
)
"""The page's parts in order."""


def build(
    runs: Sequence[Run],
    faults: Sequence[Fault],
    options: Options,
    out: Path,
    progress: Callable[[Sequence[Callable[[Content], Section]]], Iterable[Callable[[Content], Section]]] = lambda s: s,
) -> list[Section]:
    """Return the sections that the runs allow; empty ones are left out.

    Args:
        runs: The finished runs.
        faults: Folders that gave nothing.
        options: The user's choices.
        out: The folder of the page: links are relative to it.
        progress: Wraps the parts, to show how far it is.

    Raises:
        UserError: If a configuration was named that no run has.
    """
    content = Content(
        benches(runs, options.metric), list(faults), options, lambda target: overview.address(target, out)
    )
    if runs:
        content.check()
    sections = [make(content) for make in progress(SECTIONS)]
    return [section for section in sections if section.blocks]


def write(sections: Sequence[Section], out: Path, title: str, subtitle: str) -> Path:
    """Write ``index.html``, ``report.md`` and ``tables/*.csv``; return the page's path.

    Args:
        sections: What :func:`build` returned.
        out: The folder.
        title: Heading.
        subtitle: One line below it.
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
    """Return the page."""
    here = files(__package__)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests |= {"table": lambda b: isinstance(b, Table), "plot": lambda b: isinstance(b, Plot)}
    environment.filters["breakable"] = lambda name: escape(name).replace("_", Markup("_<wbr>"))  # so that columns fit
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        sections=sections,
        title=title,
        subtitle=subtitle,
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        script=Markup((here / "page.js").read_text(encoding="utf-8")),
        as_json=_as_json,
    )


def markdown(sections: Sequence[Section], title: str, subtitle: str) -> str:
    """Return all tables as one Markdown text."""
    lines = [f"# {title}", "", subtitle, ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            if isinstance(block, Table):
                lines.append(block.markdown())
            elif isinstance(block, str):
                lines += [block, ""]
    return "\n".join(lines)


def _as_json(content: object) -> Markup:
    """Return JSON that cannot end the script element it stands in."""
    return Markup(json.dumps(content).replace("<", "\\u003c"))
