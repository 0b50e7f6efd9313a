"""The command ``moleflow wandb-workspace``."""

import argparse
from importlib import import_module
from typing import Any

from moleflow.utils.errors import UserError

METRICS = ("pixel_ap", "image_auroc", "pixel_auroc", "image_ap", "pro", "routing_accuracy")
LOSS_PARTS = ("loss", "nll_mean", "nll_tail", "logdet_penalty", "grad_norm", "lr", "skipped_steps")
MEDIA = ("examples/*", "matrices/*", "pictures/*")
EFFECT_KEYS = (
    "loss.tail_weight",
    "loss.lambda_logdet",
    "optimizer.lr",
    "model.coupling_layers",
    "model.dia_blocks",
    "model.lora_rank",
)
"""Configuration keys with a panel of their effect: pixel AP of all runs over the value."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="W&B entity and project of the runs")


def run(args: argparse.Namespace) -> int:
    """Save the workspace and print its address.

    Raises:
        UserError: If the project has no entity, the extra ``dashboards`` is not installed, or W&B returns an error.
    """
    entity, _, project = args.project.partition("/")
    if not entity or not project:
        raise UserError(f"{args.project} is not of the form ENTITY/PROJECT, such as my-team/moleflow.")
    workspace = build_workspace(entity, project)
    try:
        workspace.save()
    except Exception as error:  # account and network fail in many ways
        advice = "Check" if "wandb login" in str(error) else "Run `wandb login` and check"
        reason = str(error).rstrip(". ")
        raise UserError(
            f"The workspace of {args.project} could not be saved: {reason}. {advice} entity and project."
        ) from error
    print(workspace.url)
    return 0


def build_workspace(entity: str, project: str) -> Any:
    """Return the workspace of a project, unsaved.

    Args:
        entity: W&B user or team.
        project: W&B project.

    Raises:
        UserError: If the extra ``dashboards`` is not installed.
    """
    try:
        wr: Any = import_module("wandb_workspaces.reports.v2")  # its exports are created at run time
        ws: Any = import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise UserError("wandb-workspaces is not installed. Run: pip install 'moleflow[dashboards]'") from error
    summary, step = wr.SummaryMetric, "trainer/global_step"
    bars = [wr.BarPlot(title=m, metrics=[summary(m)], orientation="h") for m in METRICS]
    effects = [wr.ScatterPlot(title=k, x=wr.Config(k), y=summary("pixel_ap"), regression=True) for k in EFFECT_KEYS]
    trade_off = wr.ScatterPlot(title="trade-off", x=summary("image_auroc"), y=summary("pixel_ap"))
    tasks = [wr.LinePlot(title=m, x=step, y=[f"task/{m}"]) for m in METRICS]
    categories = [
        wr.LinePlot(title=f"{m} by category", x=step, metric_regex=f"^category/.*/{m}$", max_runs_to_show=1)
        for m in METRICS
    ]
    training = [wr.LinePlot(title=part, x=step, y=[f"train/{part}"]) for part in LOSS_PARTS]
    tables = [wr.WeavePanelSummaryTable(table_name=f"tables/{t}") for t in ("categories", "task_matrix", "routing")]
    sections = [
        ws.Section("Leaderboard", panels=bars, is_open=True),
        ws.Section("Effects", panels=[*effects, trade_off], is_open=True),
        ws.Section("After each task", panels=[*tasks, *categories]),
        ws.Section("Training", panels=training),
        ws.Section("Categories, task matrix, routing", panels=tables),
        ws.Section("Examples", panels=[wr.MediaBrowser(media_keys=list(MEDIA))]),
    ]
    return ws.Workspace(name="moleflow", entity=entity, project=project, sections=sections)
