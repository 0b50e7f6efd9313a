"""The workspace is built as far as it can be without an account."""

import pytest

from moleflow.dashboard import LOSS_PARTS, METRICS, main, workspace

pytest.importorskip("wandb_workspaces")


@pytest.mark.filterwarnings("ignore")
def test_the_workspace_has_a_panel_for_every_metric() -> None:
    made = workspace("someone", "moleflow")
    titles = {panel.title for section in made.sections for panel in section.panels if getattr(panel, "title", None)}
    assert set(METRICS) <= titles
    assert set(LOSS_PARTS) <= titles


def test_a_project_without_entity_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["moleflow"]) == 1
    assert "ENTITY/PROJECT" in capsys.readouterr().err
