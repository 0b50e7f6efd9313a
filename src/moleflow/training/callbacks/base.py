"""Base class of callbacks that follow a run beyond the training of one task."""

from typing import Any

import lightning as L

from moleflow.training.context import RunContext, TaskReport


class RunCallback(L.Callback):
    """A Lightning callback with two further hooks: after each task and at the end of the run."""

    def on_task_evaluated(self, context: RunContext, report: TaskReport) -> None:
        """Run after each task, when its row of the task matrix is complete."""

    def on_run_complete(self, context: RunContext, metrics: dict[str, Any]) -> None:
        """Run once with the content of ``metrics.json``, before that file is written."""
