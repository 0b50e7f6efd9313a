"""Tests of ``moleflow wandb-workspace``, as far as it runs without a W&B account."""

import pytest

from moleflow.cli.command import main
from moleflow.cli.dashboard import LOSS_PARTS, METRICS, build_workspace


@pytest.mark.filterwarnings("ignore")
def test_workspace_has_a_panel_per_metric_and_loss_part() -> None:
    pytest.importorskip("wandb_workspaces")
    workspace = build_workspace("someone", "moleflow")
    titles = {panel.title for section in workspace.sections for panel in section.panels if hasattr(panel, "title")}
    assert set(METRICS) <= titles
    assert set(LOSS_PARTS) <= titles


@pytest.mark.parametrize("project", ["moleflow", "/moleflow", "someone/"])
def test_project_without_entity_or_name_is_an_error(project: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wandb-workspace", project]) == 1
    assert "ENTITY/PROJECT" in capsys.readouterr().err
