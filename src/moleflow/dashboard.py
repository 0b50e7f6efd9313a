"""Save a W&B workspace for the runs of a project. ``python -m moleflow.dashboard ENTITY/PROJECT``."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from moleflow.errors import UserError

METRICS = ("pixel_ap", "image_auroc", "pixel_auroc", "image_ap", "pro", "routing_accuracy")
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
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError("wandb-workspaces is not installed. Run: pip install 'moleflow[dashboards]'") from error
    summary = wr.SummaryMetric
    losses = ("loss", "nll_mean", "nll_tail", "logdet_penalty", "grad_norm", "lr", "skipped_steps")
    sections = [
        ws.Section("Leaderboard", panels=[wr.BarPlot(title=m, metrics=[summary(m)], orientation="h") for m in METRICS], is_open=True),
        ws.Section(
            "Effects",
            panels=[wr.ScatterPlot(title=key, x=wr.Config(key), y=summary("pixel_ap"), regression=True) for key in EFFECT_KEYS]
            + [wr.ScatterPlot(title="trade-off", x=summary("image_auroc"), y=summary("pixel_ap"))],
            is_open=True,
        ),
        ws.Section("After each task", panels=[wr.LinePlot(title=m, x="trainer/global_step", y=[f"task/{m}"]) for m in METRICS]),
        ws.Section("Training", panels=[wr.LinePlot(title=m, x="trainer/global_step", y=[f"train/{m}"]) for m in losses]),
        ws.Section(
            "Categories, task matrix, routing",
            panels=[wr.WeavePanelSummaryTable(table_name=f"tables/{name}") for name in ("categories", "task_matrix", "routing")],
        ),
        ws.Section("Examples", panels=[wr.MediaBrowser(media_keys=["pictures/*"])]),
    ]  # fmt: skip
    return ws.Workspace(name="moleflow", entity=entity, project=project, sections=sections)


def main(arguments: Sequence[str] | None = None) -> int:
    """Save the workspace and return the exit status."""
    made = argparse.ArgumentParser(
        prog="python -m moleflow.dashboard", description="Save a W&B workspace for a project."
    )
    made.add_argument("project", metavar="ENTITY/PROJECT", help="where the runs are")
    given = made.parse_args(arguments)
    entity, slash, project = given.project.partition("/")
    try:
        if not slash or not entity or not project:
            raise UserError(f"{given.project} is not of the form ENTITY/PROJECT.")
        made_workspace = workspace(entity, project)
        try:
            made_workspace.save()
        except Exception as error:  # whatever account and network make of it
            raise UserError(
                f"W&B refused the workspace: {error}. Log in with `wandb login` and look at the name."
            ) from error
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(made_workspace.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
