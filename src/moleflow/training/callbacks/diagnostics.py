"""Diagnostics of the experts after each task."""

from typing import Any

from moleflow.evaluation.diagnostics import expert_diagnostics, routing_margins, scalars
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.context import RunContext, TaskReport
from moleflow.utils.io import write_json


class Diagnostics(RunCallback):
    """Writes ``diagnostics/task<i>.json`` after each task; docs/diagnostics.md describes its content.

    The file of a task depends only on the model after that task, so a resumed run has the same files.

    Args:
        images: Largest number of training images of an expert that are examined, evenly spaced.
    """

    def __init__(self, images: int = 32) -> None:
        self.images = images

    def on_task_evaluated(self, context: RunContext, report: TaskReport) -> None:
        """Examine the task's experts and the routing of all categories so far."""
        model = context.model
        experts: dict[str, dict[str, Any]] = {}
        for name, categories in context.experts_of(report.task).items():
            samples = [s for category in categories for s in context.training_samples(report.task, category)]
            step = -(-len(samples) // self.images)
            features = model.experts[name].extractor.features([sample.path for sample in samples[::step]])
            experts[name] = expert_diagnostics(
                model.patch_model, name, features.to(model.device), context.config.loss_of(categories)
            )
        margins = routing_margins(model, {c: context.evaluator.image_features(c) for c in report.routed})
        content = {"task": report.task.name, "experts": experts, "router": margins}
        write_json(context.folder / "diagnostics" / f"task{report.task.index}.json", content)
        values = {f"diagnostics/{key}": value for key, value in scalars(content).items()}
        for log in context.logs:
            log.log_metrics(values, context.progress.log_step)
