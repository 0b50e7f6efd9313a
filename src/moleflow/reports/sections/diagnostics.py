"""Section on the diagnostics of experts, for runs with ``callbacks=diagnostics``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from moleflow.reports.comparison import Configuration
from moleflow.reports.document import Block, ReportData, Section
from moleflow.reports.tables import Cell, Item, Table, id_cell, run_href
from moleflow.runs.content import MAX_CATEGORIES, load_json
from moleflow.runs.reader import Run, as_mapping, finite_number
from moleflow.utils.text import one_line
from moleflow.visualization.diagnostics import qq_plot, router_margins, singular_values, tail_maps
from moleflow.visualization.plots import Plot, svg_data_uri

_COLUMNS: dict[str, tuple[str, ...]] = {
    "log-determinant mean": ("log_determinant", "mean"),
    "log-determinant standard deviation": ("log_determinant", "sd"),
    "correlation with |z|²": ("log_determinant", "correlation_with_square"),
    "QQ correlation": ("latent", "qq_correlation"),
    "excess kurtosis": ("latent", "excess_kurtosis"),
    "gradient share of the tail term": ("gradient", "shares", "tail"),
    "cosine of mean and tail gradient": ("gradient", "cosine_mean_tail"),
    "tail share at the border": ("tail", "border_share"),
    "patch share at the border": ("tail", "border_patches"),
    "LoRA effective rank": ("lora", "effective_rank"),
    "LoRA relative norm": ("lora", "relative_norm"),
}

_MAX_BYTES = 2**21  # of the file of one task
_MAX_TASKS = 16  # in a figure

_Tasks = list[dict[str, Any]]


def diagnostics(data: ReportData) -> Section:
    """Return a table of all experts with diagnostics, and plots of the best configuration that has them."""
    section = Section("diagnostics", "Diagnostics")
    for i, group in enumerate(data.groups):
        diagnosed = []
        for c in group.configurations:
            tasks, fault = read_tasks(c.runs[0].folder)
            if fault:
                section.blocks.append(f"Diagnostics of {c.runs[0].run_id} are incomplete: {fault}.")
            if tasks:
                diagnosed.append((c, c.runs[0], tasks))
        if not diagnosed:
            continue
        table = Table(
            f"diagnostics{i + 1}",
            f"{group.dataset}: experts",
            ("id", "configuration", "expert", *_COLUMNS, "minimum router margin after the last task"),
            note="Runs with callbacks=diagnostics, first seed of each configuration. docs/diagnostics.md explains the "
            "columns. – is a quantity that the model does not have.",
        )
        for c, run, tasks in diagnosed:
            table.rows += _rows(c, run, tasks)
        section.blocks.append(table)
        section.blocks += _plots(*diagnosed[0])
    return section


def read_tasks(folder: Path) -> tuple[_Tasks, str]:
    """Return the diagnostics of a run up to the first damaged file, and the reason of an early end.

    Returns:
        One entry per task in order, and the reason, which is empty if no file is damaged.
    """
    tasks: _Tasks = []
    while (path := folder / "diagnostics" / f"task{len(tasks)}.json").exists() and len(tasks) < MAX_CATEGORIES:
        try:
            task = as_mapping(load_json(path, _MAX_BYTES))
        except (OSError, ValueError) as error:
            return tasks, one_line(str(error), 200)
        if not as_mapping(task.get("experts")):
            return tasks, f"{path.name} has no experts"
        tasks.append(task)
    return tasks, ""


def _experts(tasks: _Tasks) -> dict[str, dict[str, Any]]:
    return {name: as_mapping(entry) for task in tasks for name, entry in as_mapping(task.get("experts")).items()}


def _rows(configuration: Configuration, run: Run, tasks: _Tasks) -> list[list[Item]]:
    router = as_mapping(tasks[-1].get("router"))
    rows: list[list[Item]] = []
    for name, entry in _experts(tasks).items():
        values = [_cell(finite_number(entry, *keys), run) for keys in _COLUMNS.values()]
        categories = [c for c, metrics in run.per_category.items() if metrics.get("expert") == name]
        margins = [margin for c in categories if (margin := finite_number(router, c, "minimum")) is not None]
        rows.append(
            [id_cell(configuration), configuration.label, name, *values, _cell(min(margins, default=None), run)]
        )
    return rows


def _cell(value: float | None, run: Run) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:.3g}", value, run_href(run))


def _plots(configuration: Configuration, run: Run, tasks: _Tasks) -> list[Block]:
    title = f"{configuration.label} ({configuration.id}), seed {run.seed}"
    title += f", first {_MAX_TASKS} of {len(tasks)} tasks" if len(tasks) > _MAX_TASKS else ""
    blocks: list[Block] = []
    for name, note, draw in _FIGURES:
        try:
            figure = draw(tasks[:_MAX_TASKS])
            uri = "" if figure is None else svg_data_uri(figure)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):  # the content is not validated
            figure = None
        if figure is None:
            blocks.append(f"{name}: not available for {title}.")
        else:
            blocks.append(Plot(f"{name}: {title}", uri, note, photo=draw is _tails))
    return blocks


def _latents(tasks: _Tasks) -> Figure | None:
    latents = {name: latent for name, e in _experts(tasks).items() if (latent := as_mapping(e.get("latent")))}
    if not latents:
        return None
    return qq_plot(next(iter(latents.values()))["levels"], {name: e["quantiles"] for name, e in latents.items()})


def _tails(tasks: _Tasks) -> Figure:
    grids = {name: e["tail"]["frequency"] for name, e in _experts(tasks).items()}
    return tail_maps({name: [[100 * value for value in row] for row in grid] for name, grid in grids.items()})


def _updates(tasks: _Tasks) -> Figure | None:
    updates = {name: lora for name, e in _experts(tasks).items() if (lora := as_mapping(e.get("lora")))}
    if not updates:
        return None
    return singular_values({name: list(e["singular_values"].values()) for name, e in updates.items()})


def _margins(tasks: _Tasks) -> Figure | None:
    routers = [as_mapping(task.get("router")) for task in tasks]
    categories = dict.fromkeys(category for router in routers for category in router)
    if not categories:
        return None
    margins = {category: [finite_number(router, category, "low") for router in routers] for category in categories}
    return router_margins(margins, [str(task.get("task", i)) for i, task in enumerate(tasks)])


_FIGURES: tuple[tuple[str, str, Callable[[_Tasks], Figure | None]], ...] = (
    ("QQ plot of the latents",
     "A curve steeper than the dotted line at the ends has heavier tails than the standard normal distribution.",
     _latents),
    ("Location of tail patches", "Share of training images in which a patch is among the least likely ones.", _tails),
    ("Singular values of the LoRA updates",
     "Relative to the largest one, median over layers. A steep fall suggests that a smaller rank suffices.", _updates),
    ("Router margins over tasks",
     "Distance of a test image to the nearest other expert minus the distance to its own expert, 5 % quantile. Images "
     "below 0 are misrouted.",
     _margins),
)  # fmt: skip
