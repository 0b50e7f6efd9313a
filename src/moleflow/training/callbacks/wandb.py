"""Metrics, tables and images in Weights & Biases."""

from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

from moleflow.metrics.averaging import mean_over_categories
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.context import RunContext, TaskReport
from moleflow.utils.io import to_jsonable


class WandbReport(RunCallback):
    """Logs what Lightning does not: metrics after each task, tables, images and the final summary.

    Everything is logged with ``trainer/global_step``, the step of the whole run, which never decreases.

    Args:
        logger: The run's W&B logger.
    """

    def __init__(self, logger: WandbLogger) -> None:
        self.logger = logger

    def on_task_evaluated(self, context: RunContext, report: TaskReport) -> None:
        """Log the means over all categories so far and the task matrix."""
        results = {category: result.all_metrics() for category, result in report.routed.items()}
        means = {f"task/{name}": value for name, value in mean_over_categories(results).items() if value is not None}
        self._log({"task/number": report.task.index + 1, **means}, report.step)
        names = [task.name for task in context.tasks]
        matrix = context.progress.matrix
        rows = [
            [name, after, on, value]
            for name in matrix.metrics
            for after, row in zip(names, matrix.matrix(name), strict=False)
            for on, value in zip(names, row, strict=False)
        ]
        self._log({"tables/task_matrix": wandb.Table(["metric", "after", "tested_on", "value"], rows)}, report.step)

    def on_run_complete(self, context: RunContext, metrics: dict[str, Any]) -> None:
        """Log the final tables and images, and set the summary to the content of ``metrics.json``."""
        columns = ["image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro", "routing_accuracy"]
        rows = [[c, *(values[name] for name in columns)] for c, values in to_jsonable(metrics["per_category"]).items()]
        counts = metrics["routing"]["counts"]
        routed = [[c, e, counts[c].get(e, 0)] for c in counts for e in metrics["routing"]["experts"]]
        content: dict[str, Any] = {
            "tables/categories": wandb.Table(["category", *columns], rows),
            "tables/routing": wandb.Table(["category", "routed_to", "images"], routed),
        }
        for path in sorted((context.folder / "pictures").glob("*.[jp][pn]g")):
            content[f"pictures/{path.stem}"] = wandb.Image(str(path))
        self._log(content, context.progress.step)
        summary = {key: value for key, value in to_jsonable(metrics).items() if key not in ("training", "task_matrix")}
        self.logger.experiment.summary.update(summary)

    def _log(self, content: dict[str, Any], step: int) -> None:
        self.logger.experiment.log({**content, "trainer/global_step": step})
