"""Sections on continual learning (task matrices, forgetting, routing), and on the images of the best runs."""

import base64
from collections.abc import Sequence

from moleflow.report.comparison import ComparisonGroup, Configuration
from moleflow.report.document import ReportData, Section
from moleflow.report.tables import Table, change_cell, configuration_href, id_cell, metric_cell
from moleflow.runs.reader import Run, as_mapping, finite_number
from moleflow.visualization.plots import (
    Plot,
    heat_map,
    learning_curves,
    roc_and_precision,
    score_histograms,
    svg_data_uri,
)

_MAX_IMAGE_BYTES = 12_000_000  # of all example images in the page


def continual(data: ReportData) -> Section:
    """Return forgetting and routing of all configurations, and the task matrices of best and baseline."""
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
        for name, configuration in _best_and_baseline(data, group):
            section.blocks += _matrices(configuration.runs[0], metric, f"{name} {configuration.id}, {group.dataset}")
    return section


def images(data: ReportData) -> Section:
    """Return learning curves, score histograms and example images of the best run of each data set."""
    section = Section("images", "Curves and images")
    remaining = _MAX_IMAGE_BYTES
    for group in data.groups:
        run = group.best.runs[0]
        title = f"best {group.best.id}, {group.dataset}"
        epochs = as_mapping(run.metrics.get("training")).get("epochs")
        tasks = as_mapping(run.metrics.get("task_matrix")).get("tasks")
        if isinstance(epochs, list) and isinstance(tasks, list) and any(epochs):
            names = [task_label([str(c) for c in task]) for task in tasks]
            note = f"Run {run.run_id}. All tasks share the axes."
            section.blocks.append(Plot(f"Learning curves: {title}", svg_data_uri(learning_curves(epochs, names)), note))
        scores = scores_by_category(run)
        if scores:
            histograms, curves = svg_data_uri(score_histograms(scores)), svg_data_uri(roc_and_precision(scores))
            section.blocks.append(Plot(f"Image scores of normal and defective images: {title}", histograms))
            section.blocks.append(Plot(f"ROC and precision-recall curves: {title}", curves))
        for path in sorted((run.folder / "pictures").glob("examples_*.jpg")):
            content = path.read_bytes()
            remaining -= len(content)
            if remaining > 0:
                uri = "data:image/jpeg;base64," + base64.b64encode(content).decode()
                section.blocks.append(Plot(f"Examples, {path.stem.removeprefix('examples_')}: {title}", uri))
            else:
                section.blocks.append(f"The page would become too large; see the image file {path}")
    return section


def task_label(categories: Sequence[str]) -> str:
    """Return a short label of a task for an axis."""
    return categories[0] if len(categories) == 1 else f"{categories[0]} +{len(categories) - 1}"


def scores_by_category(run: Run) -> dict[str, tuple[list[float], list[int]]]:
    """Return image scores and labels of ``scores.csv`` by category, without malformed rows."""
    by_category: dict[str, tuple[list[float], list[int]]] = {}
    for row in run.scores():
        try:
            score, label = float(row["image_score"]), int(row["label"])
        except (KeyError, ValueError, TypeError):
            continue
        scores, labels = by_category.setdefault(str(row.get("category")), ([], []))
        scores.append(score)
        labels.append(label)
    return by_category


def _best_and_baseline(data: ReportData, group: ComparisonGroup) -> list[tuple[str, Configuration]]:
    baseline = data.baseline(group)
    return [("best", group.best)] + ([("baseline", baseline)] if baseline is not group.best else [])


def _matrices(run: Run, metric: str, title: str) -> list[Plot]:
    """Return the task matrices of a metric and of the routing accuracy, and the routing matrix."""
    plots = []
    matrix = as_mapping(run.metrics.get("task_matrix"))
    tasks = matrix.get("tasks")
    for name in dict.fromkeys((metric, "routing_accuracy")):
        rows = matrix.get(name)
        if not isinstance(tasks, list) or not isinstance(rows, list) or len(tasks) < 2:
            continue
        labels = [task_label([str(c) for c in task]) for task in tasks]
        values = [[finite_number({"value": value}, "value") for value in row] for row in rows]
        plot = heat_map(
            f"Task matrix of {name}: {title}", values, labels[: len(values)], labels, "after task", "tested on task", 3
        )
        note = f"Run {run.run_id}. Without forgetting, the values of a column are constant. Dark is 0, bright is 1."
        plots.append(Plot(plot.title, plot.uri, note))
    routing = as_mapping(run.metrics.get("routing"))
    experts = [str(name) for name in routing.get("experts", [])]
    counts = {category: as_mapping(row) for category, row in as_mapping(routing.get("counts")).items()}
    if len(experts) > 1 and counts:
        shares = [
            [100 * (finite_number(row, e) or 0.0) / max(1, sum(row.values())) for e in experts]
            for row in counts.values()
        ]
        plot = heat_map(
            f"Routing in percent: {title}", shares, list(counts), experts, "category", "routed to", 0, (0, 100)
        )
        plots.append(Plot(plot.title, plot.uri, f"Run {run.run_id}."))
    return plots
