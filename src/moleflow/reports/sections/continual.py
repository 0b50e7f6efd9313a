"""Section on continual learning: forgetting, task matrices and routing in one view."""

from collections.abc import Sequence

from moleflow.reports.comparison import ComparisonGroup, Configuration
from moleflow.reports.document import Block, Panel, ReportData, Section
from moleflow.reports.tables import Cell, Table, change_cell, configuration_href, id_cell, metric_cell
from moleflow.runs.reader import Run, as_mapping, finite_number

_MAX_TASKS = 60  # of a matrix in the page
_EQUAL = 5e-5


def continual(data: ReportData) -> Section:
    """Return forgetting and routing of all configurations, and the matrices of best and baseline."""
    section = Section("continual", "Continual learning")
    metric = data.options.metric
    for i, group in enumerate(data.groups):
        table = Table(
            f"continual{i + 1}", f"{group.dataset}: forgetting and routing",
            ("id", "configuration", "scenario", f"{metric} routed", f"{metric} oracle", "routed - oracle",
             "routing_accuracy",
             f"forgetting of {metric}", "backward transfer", "forgetting of image_auroc",
             "forgetting of routing_accuracy"),
            note="Oracle: the expert of the true category instead of the routed one. Forgetting: mean decrease from a "
            "task's best value to its last one.",
        )  # fmt: skip
        for c in group.configurations:
            routed, oracle = c.mean(metric), c.mean("oracle", metric)
            gap = None if routed is None or oracle is None else routed - oracle
            table.rows.append([
                id_cell(c), c.label, str(c.settings.get("scenario.split", "–")),
                metric_cell(c, metric), metric_cell(c, "oracle", metric),
                change_cell(gap, href=configuration_href(c)), metric_cell(c, "routing_accuracy"),
                metric_cell(c, "forgetting", metric), metric_cell(c, "backward_transfer", metric),
                metric_cell(c, "forgetting", "image_auroc"), metric_cell(c, "forgetting", "routing_accuracy"),
            ])  # fmt: skip
        section.blocks.append(table)
        for title, c in _shown(data, group):
            section.blocks += _view(
                c.runs[0], metric, f"{title} {c.id} ({c.label}), {group.dataset}", f"{c.id}_{i + 1}"
            )
    return section


def task_label(categories: Sequence[str]) -> str:
    """Return a short label of a task."""
    return categories[0] if len(categories) == 1 else f"{categories[0]} +{len(categories) - 1}"


def task_labels(run: Run) -> list[str]:
    """Return the labels of a run's tasks in their order."""
    return [task_label(task) for task in as_mapping(run.metrics.get("task_matrix")).get("tasks", [])]


def _shown(data: ReportData, group: ComparisonGroup) -> list[tuple[str, Configuration]]:
    """Return best, baseline, and the configuration that forgets most, each once."""
    metric = data.options.metric
    forgetting = {c: v for c in group.configurations if (v := c.mean("forgetting", metric)) is not None and v > _EQUAL}
    shown = {group.best: "best", **({} if (b := data.baseline(group)) is group.best else {b: "baseline"})}
    if forgetting:
        shown.setdefault(max(forgetting, key=lambda c: forgetting[c]), "most forgetting")
    return [(title, c) for c, title in shown.items()]


def _view(run: Run, metric: str, title: str, name: str) -> list[Block]:
    """Return the matrices of a run side by side; a matrix without information is one sentence."""
    matrix = as_mapping(run.metrics.get("task_matrix"))
    labels = task_labels(run)
    tables: list[Table] = []
    sentences: list[str] = []
    for key in dict.fromkeys((metric, "routing_accuracy")):
        rows = matrix.get(key, [])
        if len(labels) < 2 or not rows:
            continue
        if len(labels) > _MAX_TASKS:
            sentences.append(f"The task matrix of {key} has {len(labels)} tasks; metrics.json has its values.")
        elif all(value == 1 for row in rows for value in row):
            sentences.append(f"{key} is 100 % on all tasks after each task.")
        elif _is_constant(rows):
            sentences.append(
                f"{key} of a task does not change after later tasks (forgetting 0): "
                + ", ".join(f"{label} {value:.4f}" for label, value in zip(labels, rows[-1], strict=False))
                + "."
                if all(value is not None for value in rows[-1])
                else f"{key} of a task does not change after later tasks (forgetting 0)."
            )
        else:
            tables.append(_task_table(f"matrix_{key}_{name}", key, rows, labels))
    routing = as_mapping(run.metrics.get("routing"))
    experts = routing.get("experts", [])
    counts = {category: as_mapping(row) for category, row in as_mapping(routing.get("counts")).items()}
    if len(experts) > 1 and counts:
        if run.value("routing_accuracy") == 1:
            images = sum(sum(row.values()) for row in counts.values())
            sentences.append(f"All {images} test images are routed to the expert of their category.")
        elif max(len(experts), len(counts)) <= _MAX_TASKS:
            tables.append(_routing_table(f"routing_{name}", counts, experts))
    if not tables and not sentences:
        return []
    return [
        Panel(f"Task matrix, forgetting and routing: {title}", tables, " ".join((f"Run {run.run_id}.", *sentences)))
    ]


def _is_constant(rows: Sequence[Sequence[float | None]]) -> bool:
    """Return whether the values of each task are equal after all later tasks."""
    final = rows[-1]
    return all(
        value is None or last is None or abs(value - last) < _EQUAL
        for row in rows
        for value, last in zip(row, final, strict=False)
    )


def _task_table(name: str, metric: str, rows: Sequence[Sequence[float | None]], labels: Sequence[str]) -> Table:
    """Return the task matrix with the forgetting of each task in the last row."""
    table = Table(
        name, f"{metric} after each task", ("after task", *labels),
        note="Columns: tested on task. Forgetting: highest earlier value minus the last one.", foot=1,
    )  # fmt: skip
    highest = max((value for row in rows for value in row if value is not None), default=0.0) or 1.0
    for label, row in zip(labels, rows, strict=False):
        cells = [_shaded(value, highest, 3) for value in row]
        table.rows.append([label, *cells, *[Cell("")] * (len(labels) - len(row))])
    forgetting: list[Cell] = []
    for j in range(len(labels)):
        column = [v for row in rows if j < len(row) and (v := finite_number({"v": row[j]}, "v")) is not None]
        forgetting.append(Cell(f"{max(column) - column[-1]:.3f}", max(column) - column[-1]) if column else Cell("–"))
    table.rows.append(["forgetting", *forgetting])
    return table


def _routing_table(name: str, counts: dict[str, dict[str, int]], experts: Sequence[str]) -> Table:
    """Return the percentage of each category's images that is routed to each expert."""
    table = Table(name, "Routing in percent", ("category", *experts), note="Columns: routed to expert.")
    for category, row in counts.items():
        total = max(1, sum(row.values()))
        table.rows.append([category, *(_shaded(100 * row.get(expert, 0) / total, 100.0, 0) for expert in experts)])
    return table


def _shaded(value: float | None, highest: float, digits: int) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(f"{value:.{digits}f}", value, shade=min(1.0, max(0.0, value / highest)))
