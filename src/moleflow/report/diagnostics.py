"""What the callback ``diagnostics`` kept of the runs that had it on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from moleflow.report.configurations import Configuration
from moleflow.report.content import Content, Section
from moleflow.report.diagnostic_plots import margins, qq_plot, spectra, tail_maps
from moleflow.report.plots import Plot, svg
from moleflow.report.runs import Run, mapping, number
from moleflow.report.tables import Cell, Item, Table, name_cell, run_link

_COLUMNS: dict[str, tuple[str, ...]] = {
    "log-det mean": ("log_determinant", "mean"),
    "log-det sd": ("log_determinant", "sd"),
    "its correlation with |z|²": ("log_determinant", "correlation_with_square"),
    "QQ correlation": ("latent", "qq_correlation"),
    "excess kurtosis": ("latent", "excess_kurtosis"),
    "tail's share of the gradient": ("gradient", "shares", "tail"),
    "cosine mean, tail": ("gradient", "cosine_mean_tail"),
    "tail at the border": ("tail", "border_share"),
    "patches at the border": ("tail", "border_patches"),
    "LoRA effective rank": ("lora", "effective_rank"),
    "LoRA over layer": ("lora", "relative_norm"),
}


def diagnostics(content: Content) -> Section:
    """Return a table of all experts that were examined, and plots of the best configuration that has them."""
    section = Section("diagnostics", "Diagnostics")
    for i, bench in enumerate(content.benches):
        examined = [(c, run, tasks) for c in bench.configurations for run in c.runs[:1] if (tasks := read(run.folder))]
        if not examined:
            continue
        table = Table(
            f"diagnostics{i + 1}",
            f"{bench.dataset}: inside the experts",
            ("name", "configuration", "expert", *_COLUMNS, "least margin at the end"),
            note="Runs with callbacks=diagnostics, the first seed of each configuration. docs/diagnostics.md says "
            "what each is. – is a quantity that does not exist for the model.",
        )
        for c, run, tasks in examined:
            table.rows += _rows(c, run, tasks)
        section.blocks.append(table)
        section.blocks += _plots(*examined[0])
    return section


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the tasks' files of a run in order; none if there are none, or up to the first that is damaged."""
    tasks: list[dict[str, Any]] = []
    while (path := folder / "diagnostics" / f"task{len(tasks)}.json").is_file():
        try:
            task = mapping(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            break
        if not mapping(task.get("experts")):
            break
        tasks.append(task)
    return tasks


def _experts(tasks: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: mapping(entry) for task in tasks for name, entry in mapping(task.get("experts")).items()}


def _rows(configuration: Configuration, run: Run, tasks: list[dict[str, Any]]) -> list[list[Item]]:
    last = mapping(tasks[-1].get("router"))
    rows: list[list[Item]] = []
    for name, entry in _experts(tasks).items():
        values = [_cell(number(entry, *keys), run) for keys in _COLUMNS.values()]
        own = [c for c, v in run.per_category.items() if v.get("expert") == name]
        least = [margin for c in own if (margin := number(last, c, "minimum")) is not None]
        rows.append(
            [name_cell(configuration), configuration.label, name, *values, _cell(min(least, default=None), run)]
        )
    return rows


def _cell(value: float | None, run: Run) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:.3g}", value, run_link(run))


def _plots(configuration: Configuration, run: Run, tasks: list[dict[str, Any]]) -> list[str | Table | Plot]:
    title = f"{configuration.name}, {run.place}"
    plots: list[str | Table | Plot] = []
    for what, note, make in _DRAWN:
        try:
            made = make(tasks)
        except (KeyError, IndexError, TypeError, ValueError):  # a file by somebody else
            made = None
        if made is None:
            plots.append(f"{what}: no such quantity in {title}.")
        else:
            plots.append(Plot(f"{what}: {title}", svg(made), note))
    return plots


def _latents(tasks: list[dict[str, Any]]) -> Figure | None:
    latents = {name: latent for name, e in _experts(tasks).items() if (latent := mapping(e.get("latent")))}
    if not latents:
        return None
    return qq_plot(next(iter(latents.values()))["levels"], {name: e["quantiles"] for name, e in latents.items()})


def _tails(tasks: list[dict[str, Any]]) -> Figure:
    grids = {name: e["tail"]["frequency"] for name, e in _experts(tasks).items()}
    return tail_maps({name: [[100 * value for value in row] for row in grid] for name, grid in grids.items()})


def _updates(tasks: list[dict[str, Any]]) -> Figure | None:
    updates = {name: lora for name, e in _experts(tasks).items() if (lora := mapping(e.get("lora")))}
    return spectra({name: list(e["singular_values"].values()) for name, e in updates.items()}) if updates else None


def _margins(tasks: list[dict[str, Any]]) -> Figure | None:
    routers = [mapping(task.get("router")) for task in tasks]
    categories = dict.fromkeys(category for router in routers for category in router)
    if not categories:
        return None
    low = {category: [number(router, category, "low") for router in routers] for category in categories}
    return margins(low, [str(task.get("task", i)) for i, task in enumerate(tasks)])


_DRAWN: tuple[tuple[str, str, Callable[[list[dict[str, Any]]], Figure | None]], ...] = (
    ("Latents against the normal", "Steeper than the dotted line at the ends: heavier tails than the density has.",
     _latents),
    ("Where the tail patches sit", "How often a patch is among the least likely ones of a training picture.", _tails),
    ("Singular values of the LoRA updates", "Median over layers. A steep fall: a smaller rank would do.", _updates),
    ("Router margins as categories arrive",
     "How much nearer a test picture is to its own expert than to the next one; below the line it is misrouted.",
     _margins),
)  # fmt: skip
