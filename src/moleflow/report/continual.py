"""What the sequence of tasks did: task matrices, forgetting, routing; and the pictures that a run left."""

import base64
from collections.abc import Sequence

from moleflow.report.configurations import Bench, Configuration
from moleflow.report.content import Content, Section
from moleflow.report.plots import Plot, heat_map, learning_curves, roc_and_precision, score_histograms, svg
from moleflow.report.runs import Run, mapping, number
from moleflow.report.tables import Table, change_cell, link, metric_cell, name_cell

_PICTURE_BYTES = 12_000_000  # of pictures in the page, all together


def continual(content: Content) -> Section:
    """Return task matrix and routing of the best run of each data set, and forgetting of all configurations."""
    section = Section("continual", "Continual view")
    metric = content.options.metric
    for i, bench in enumerate(content.benches):
        table = Table(
            f"continual{i + 1}", f"{bench.dataset}: forgetting and routing",
            ("name", "configuration", "scenario", f"{metric} routed", f"{metric} oracle", "routed less oracle",
             "routing_accuracy",
             f"forgetting of {metric}", "backward transfer", "forgetting of image_auroc",
             "forgetting of routing_accuracy"),
            note="Oracle: the true category picks the expert. Forgetting: the fall "
            "from a task's best value to its last.",
        )  # fmt: skip
        for c in bench.configurations:
            routed, oracle = c.mean(metric), c.mean("oracle", metric)
            gap = None if routed is None or oracle is None else routed - oracle
            table.rows.append(
                [name_cell(c), c.label, str(c.settings.get("scenario.split", "–")), metric_cell(c, metric)]
                + [metric_cell(c, "oracle", metric), change_cell(gap, href=link(c)), metric_cell(c, "routing_accuracy")]
                + [
                    metric_cell(c, key, name)
                    for key, name in (
                        ("forgetting", metric),
                        ("backward_transfer", metric),
                        ("forgetting", "image_auroc"),
                        ("forgetting", "routing_accuracy"),
                    )
                ]
            )
        section.blocks.append(table)
        for name, configuration in _shown(content, bench):
            section.blocks += _matrices(configuration.runs[0], metric, f"{name} {configuration.name}, {bench.dataset}")
    return section


def _shown(content: Content, bench: Bench) -> list[tuple[str, Configuration]]:
    base = content.baseline(bench)
    return [("best", bench.best)] + ([("baseline", base)] if base is not bench.best else [])


def _matrices(run: Run, metric: str, title: str) -> list[Plot]:
    plots = []
    matrix = mapping(run.metrics.get("task_matrix"))
    tasks = matrix.get("tasks")
    for shown in dict.fromkeys((metric, "routing_accuracy")):
        rows = matrix.get(shown)
        if not isinstance(tasks, list) or not isinstance(rows, list) or len(tasks) < 2:
            continue
        names = [shortened([str(c) for c in task]) for task in tasks]
        values = [[number({"v": v}, "v") for v in row] for row in rows]
        note = f"Run {run.place}. A column that stays the same downwards was not forgotten. Dark is 0, bright 1."
        plot = heat_map(
            f"Task matrix of {shown}: {title}", values, names[: len(values)], names, "after task", "tested on task", 3
        )
        plots.append(Plot(plot.title, plot.uri, note))
    routing = mapping(run.metrics.get("routing"))
    experts = [str(name) for name in routing.get("experts", [])]
    counts = {c: mapping(v) for c, v in mapping(routing.get("counts")).items()}
    if len(experts) > 1 and counts:
        shares = [
            [100 * (number(row, e) or 0.0) / max(1, sum(row.values())) for e in experts] for row in counts.values()
        ]
        plot = heat_map(
            f"Routing in percent: {title}", shares, list(counts), experts, "category", "routed to", 0, (0, 100)
        )
        plots.append(Plot(plot.title, plot.uri, f"Run {run.place}."))
    return plots


def shortened(categories: Sequence[str]) -> str:
    """Return a task's name for an axis."""
    return categories[0] if len(categories) == 1 else f"{categories[0]} +{len(categories) - 1}"


def pictures(content: Content) -> Section:
    """Return curves, histograms and example pictures of the best run of each data set."""
    section = Section("pictures", "Curves and pictures")
    left = _PICTURE_BYTES
    for bench in content.benches:
        run = bench.best.runs[0]
        title = f"best {bench.best.name}, {bench.dataset}"
        epochs = mapping(run.metrics.get("training")).get("epochs")
        tasks = mapping(run.metrics.get("task_matrix")).get("tasks")
        if isinstance(epochs, list) and isinstance(tasks, list) and any(epochs):
            names = [shortened([str(c) for c in task]) for task in tasks]
            note = f"Run {run.place}. One axis for all tasks."
            section.blocks.append(Plot(f"Learning curves: {title}", svg(learning_curves(epochs, names)), note))
        scores = scores_by_category(run)
        if scores:
            section.blocks.append(Plot(f"Image scores, normal and defect: {title}", svg(score_histograms(scores))))
            section.blocks.append(Plot(f"ROC and precision-recall: {title}", svg(roc_and_precision(scores))))
        for path in sorted((run.folder / "pictures").glob("examples_*.jpg")):
            content_bytes = path.read_bytes()
            left -= len(content_bytes)
            if left > 0:
                uri = "data:image/jpeg;base64," + base64.b64encode(content_bytes).decode()
                section.blocks.append(Plot(f"Examples, {path.stem.removeprefix('examples_')}: {title}", uri))
            else:
                section.blocks.append(f"More pictures are in the run folder: {path}")
    return section


def scores_by_category(run: Run) -> dict[str, tuple[list[float], list[int]]]:
    """Return image scores and labels by category from ``scores.csv``; rows that cannot be read are left out."""
    found: dict[str, tuple[list[float], list[int]]] = {}
    for row in run.scores():
        try:
            score, label = float(row["image_score"]), int(row["label"])
        except (KeyError, ValueError, TypeError):
            continue
        values, labels = found.setdefault(str(row.get("category")), ([], []))
        values.append(score)
        labels.append(label)
    return found
