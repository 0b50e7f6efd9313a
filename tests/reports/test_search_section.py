"""Tests of the section on searches, and of the files that it is built from."""

from pathlib import Path

from helpers.report import columns
from moleflow.reports.document import ReportData, ReportOptions, Section
from moleflow.reports.sections.search import search
from moleflow.reports.tables import Table
from moleflow.runs.searches import SearchRecord, Trial, read_searches

SPACE = {"optimizer.lr": "FloatDistribution(...)", "epochs": "IntDistribution(...)"}


def record(study: str, objectives: list[str], directions: list[str], values: list[list[float]]) -> SearchRecord:
    """Return the record of a search with complete trials of these values, and a pruned and a failed one."""
    trials = [
        Trial(i, "complete", v, {"optimizer.lr": 0.1 * i, "epochs": i}, {}, f"run{i}") for i, v in enumerate(values)
    ]
    trials += [Trial(len(values), "pruned", [], {"epochs": 9}, {"1": 0.2}), Trial(len(values) + 1, "failed", [], {})]
    importance = {objective: {"epochs": 0.75, "optimizer.lr": 0.25} for objective in objectives}
    return SearchRecord(study, objectives, directions, "TPESampler", "MedianPruner", SPACE, trials, importance)


def section_of(root: Path) -> Section:
    searches, faults = read_searches([root])
    assert not faults
    return search(ReportData([], [], ReportOptions(), lambda target: f"link/{target.name}", searches))


def test_best_trials_and_importance(tmp_path: Path) -> None:
    one = record("one", ["pixel_ap"], ["maximize"], [[0.2], [0.5], [0.3]])
    path = one.write(tmp_path / "runs")
    assert SearchRecord.read(path) == one
    section = section_of(tmp_path)
    best, importance = (block for block in section.blocks if isinstance(block, Table))
    assert "5 trials (3 complete, 1 failed, 1 pruned)" in str(section.blocks[0])
    assert columns(best, "trial", "pixel_ap", "epochs") == [(1, 0.5, 1), (2, 0.3, 2), (0, 0.2, 0)]
    assert best.cells[0][-1].href == "link/run1"
    assert columns(importance, "key", "pixel_ap") == [("epochs", 0.75), ("optimizer.lr", 0.25)]


def test_pareto_front_of_several_objectives(tmp_path: Path) -> None:
    values = [[0.5, 10.0], [0.6, 20.0], [0.4, 12.0], [0.6, 25.0]]
    record("two", ["pixel_ap", "seconds"], ["maximize", "minimize"], values).write(tmp_path)
    front, _ = (block for block in section_of(tmp_path).blocks if isinstance(block, Table))
    assert columns(front, "trial") == [(1,), (0,)]


def test_damaged_record_is_a_fault(tmp_path: Path) -> None:
    path = record("one", ["pixel_ap"], ["maximize"], [[0.2]]).write(tmp_path)
    path.write_text("{")
    searches, (fault,) = read_searches([tmp_path])
    assert not searches
    assert fault.kind == "damaged"
    assert "is not JSON" in fault.reason
