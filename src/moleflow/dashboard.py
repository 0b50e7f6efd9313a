"""Save a W&B workspace for the runs of a project. ``python -m moleflow.dashboard ENTITY/PROJECT``."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from moleflow.errors import UserError, told

METRICS = ("pixel_ap", "image_auroc", "pixel_auroc", "image_ap", "pro", "routing_accuracy")
LOSS_PARTS = ("loss", "nll_mean", "nll_tail", "logdet_penalty", "grad_norm", "lr", "skipped_steps")
EFFECT_KEYS = (
    "loss.tail_weight",
    "loss.lambda_logdet",
    "optimizer.lr",
    "model.coupling_layers",
    "model.dia_blocks",
    "model.lora_rank",
)
"""Settings whose effect has a panel: pixel AP of every run over their value."""


def workspace(entity: str, project: str) -> Any:
    """Return the workspace, not saved yet.

    Raises:
        UserError: If the package of the extra ``dashboards`` is missing.
    """
    try:
        wr: Any = import_module("wandb_workspaces.reports.v2")  # its exports are made at run time
        ws: Any = import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise UserError("wandb-workspaces is not installed. Run: pip install 'moleflow[dashboards]'") from error
    summary, step = wr.SummaryMetric, "trainer/global_step"
    bars = [wr.BarPlot(title=m, metrics=[summary(m)], orientation="h") for m in METRICS]
    effects = [wr.ScatterPlot(title=k, x=wr.Config(k), y=summary("pixel_ap"), regression=True) for k in EFFECT_KEYS]
    trade_off = wr.ScatterPlot(title="trade-off", x=summary("image_auroc"), y=summary("pixel_ap"))
    tasks = [wr.LinePlot(title=m, x=step, y=[f"task/{m}"]) for m in METRICS]
    training = [wr.LinePlot(title=part, x=step, y=[f"train/{part}"]) for part in LOSS_PARTS]
    tables = [wr.WeavePanelSummaryTable(table_name=f"tables/{t}") for t in ("categories", "task_matrix", "routing")]
    sections = [
        ws.Section("Leaderboard", panels=bars, is_open=True),
        ws.Section("Effects", panels=[*effects, trade_off], is_open=True),
        ws.Section("After each task", panels=tasks),
        ws.Section("Training", panels=training),
        ws.Section("Categories, task matrix, routing", panels=tables),
        ws.Section("Examples", panels=[wr.MediaBrowser(media_keys=["pictures/*"])]),
    ]
    return ws.Workspace(name="moleflow", entity=entity, project=project, sections=sections)


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Save the workspace and return the exit status."""
    made = argparse.ArgumentParser(
        prog="python -m moleflow.dashboard", description="Save a W&B workspace for a project."
    )
    made.add_argument("project", metavar="ENTITY/PROJECT", help="where the runs are")
    given = made.parse_args(arguments)
    entity, slash, project = given.project.partition("/")
    if not slash or not entity or not project:
        raise UserError(f"{given.project} is not of the form ENTITY/PROJECT.")
    made_workspace = workspace(entity, project)
    try:
        made_workspace.save()
    except Exception as error:  # whatever account and network make of it
        raise UserError(
            f"W&B refused the workspace: {error}. Log in with `wandb login` and look at the name."
        ) from error
    print(made_workspace.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
