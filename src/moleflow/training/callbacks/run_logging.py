"""Content of the logs of a run: metrics, tables and images after each task, and the results at its end."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from moleflow.evaluation.evaluator import CategoryResult
from moleflow.evaluation.results import METRICS
from moleflow.metrics.averaging import mean_over_categories, nanmean
from moleflow.metrics.task_matrix import TaskMatrix
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.callbacks.visualizer import defect_strip
from moleflow.training.context import RunContext, TaskReport
from moleflow.training.experiment_log.base import LogImage, Table
from moleflow.utils.environment import escape_undecodable
from moleflow.utils.io import to_jsonable
from moleflow.visualization.plots import heat_map_figure, save_figure


class RunLogging(RunCallback):
    """Writes metrics, tables, images, results and the model into all logs of the run.

    docs/dashboards.md lists the keys. The step of all values is ``Progress.log_step``, which never decreases.
    """

    def on_task_evaluated(self, context: RunContext, report: TaskReport) -> None:
        """Log the metrics of each category so far, their means, and in logs with media tables and images."""
        step, matrix = context.progress.log_step, context.progress.matrix
        scalars = task_scalars(report, matrix)
        for log in context.logs:
            log.log_metrics(scalars, step)
        logs = [log for log in context.logs if log.has_media]
        if not logs:
            return
        tables, images = task_tables(context, report), task_images(context, report)
        for log in logs:
            log.log_tables(tables, step)
            log.log_images(images, step)

    def on_run_complete(self, context: RunContext, metrics: dict[str, Any]) -> None:
        """Log the final and best values, the figures of ``pictures/``, the results and the model folder."""
        step, content = context.progress.log_step, to_jsonable(metrics)
        scalars = final_scalars(content) | best_scalars(context.progress.matrix, [t.categories for t in context.tasks])
        pictures = sorted((context.folder / "pictures").glob("*.[jp][pn]g"))
        figures: dict[str, LogImage] = {f"pictures/{path.stem}": path for path in pictures}
        for log in context.logs:
            log.log_metrics(scalars, step)
            log.log_images(figures, step)
            log.log_results(content, scalars)
            log.log_model(context.folder / "model", content)


def task_scalars(report: TaskReport, matrix: TaskMatrix) -> dict[str, float]:
    """Return the scalars after a task: of each category so far, their means, and the forgetting so far.

    Args:
        report: The results after the task.
        matrix: The task matrix so far.
    """
    results = {escape_undecodable(c): result.all_metrics() for c, result in report.routed.items()}
    values = {f"task/{name}": value for name, value in mean_over_categories(results).items()}
    values |= {f"category/{c}/{name}": nanmean([v]) for c, metrics in results.items() for name, v in metrics.items()}
    values |= {f"forgetting/{name}": matrix.forgetting(name) for name in matrix.metrics}
    number = {"task/number": float(report.task.index + 1)}
    return number | {key: value for key, value in values.items() if value is not None}


def final_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the means of ``metrics.json`` as the scalars ``final/...``.

    Args:
        metrics: The content of ``metrics.json`` in JSON's types.
    """
    values = {name: metrics[name] for name in (*METRICS, "routing_accuracy")} | dict(metrics["decisions"])
    return {f"final/{name}": value for name, value in values.items() if value is not None}


def best_scalars(matrix: TaskMatrix, tasks: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the highest mean over the categories so far that each metric had after any task, as ``best/...``.

    Args:
        matrix: The task matrix; its entries are means over the categories of a task.
        tasks: The categories of each task.
    """
    values = {}
    for name in matrix.metrics:
        means = [
            nanmean(value for value, task in zip(row, tasks, strict=False) for _ in task) for row in matrix.matrix(name)
        ]
        values[f"best/{name}"] = max((mean for mean in means if mean is not None), default=None)
    return {key: value for key, value in values.items() if value is not None}


def task_tables(context: RunContext, report: TaskReport) -> dict[str, Table]:
    """Return the task matrix, the metrics by category and the routing after a task as tables."""
    names = [escape_undecodable(task.name) for task in context.tasks]
    matrix = context.progress.matrix
    cells = [
        [name, after, on, value]
        for name in matrix.metrics
        for after, row in zip(names, matrix.matrix(name), strict=False)
        for on, value in zip(names, row, strict=False)
    ]
    results = {escape_undecodable(c): to_jsonable(result.all_metrics()) for c, result in report.routed.items()}
    columns = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
    experts, counts = list(context.detector.experts), routing_counts(report.routed)
    return {
        "tables/task_matrix": Table(("metric", "after", "tested_on", "value"), cells),
        "tables/categories": Table(
            ("category", *columns), [[c, *(metrics.get(name) for name in columns)] for c, metrics in results.items()]
        ),
        "tables/routing": Table(
            ("category", "routed_to", "images"),
            [
                [escape_undecodable(category), escape_undecodable(expert), row[expert]]
                for category, row in counts.items()
                for expert in experts
            ],
        ),
    }


def task_images(context: RunContext, report: TaskReport) -> dict[str, LogImage]:
    """Return the task matrix and the routing as figures, and a defect of each category so far.

    The defect of a category is the same image after every task, so that its anomaly maps can be compared.
    """
    matrix, names = context.progress.matrix, [escape_undecodable(task.name) for task in context.tasks]
    metric = next(name for name in ("pixel_ap", "image_auroc", "routing_accuracy") if name in matrix.metrics)
    done, experts = report.task.index + 1, list(context.detector.experts)
    shares: list[list[float | None]] = [
        [100 * row[expert] / row.total() for expert in experts] for row in routing_counts(report.routed).values()
    ]
    images: dict[str, LogImage] = {
        f"matrices/{metric}": _rendered(
            heat_map_figure(matrix.matrix(metric), names[:done], names[:done], "after training on", "tested on")
        ),
        "matrices/routing": _rendered(
            heat_map_figure(
                shares, list(map(escape_undecodable, report.routed)), list(map(escape_undecodable, experts)),
                "category", "routed to (%)", 0, (0, 100),
            )
        ),
    }  # fmt: skip
    for category, result in report.routed.items():
        defects = [i for i, sample in enumerate(result.samples) if sample.label]
        if defects:
            strip = defect_strip(context.detector, category, result, defects[len(defects) // 2], size=128)
            images[f"examples/{escape_undecodable(category)}"] = strip
    return images


def routing_counts(routed: Mapping[str, CategoryResult]) -> dict[str, Counter[str]]:
    """Return the number of images of each category by the expert that scored them.

    Args:
        routed: Results by category.
    """
    return {category: Counter(result.routes) for category, result in routed.items()}


def _rendered(figure: Figure) -> Image.Image:
    """Return a figure as an image."""
    buffer = io.BytesIO()
    save_figure(figure, buffer, format="png", dpi=90)
    return Image.open(buffer).convert("RGB")
