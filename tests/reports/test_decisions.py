"""Tests of the report's section of decisions and calibrations."""

import json
from pathlib import Path

import numpy as np

from helpers.report import build_report, tables
from helpers.runs import CATEGORIES, write_run
from moleflow.detector.calibration import Calibration, write_calibrations
from moleflow.reports.document import ReportOptions
from moleflow.reports.tables import Table
from moleflow.scoring.thresholds import threshold_at_rate

VALUES = {
    "false_alarm_rate": 0.02, "recall": 0.8, "f1": 0.85, "unknown_rate": 0.0, "f1_max": 0.9, "f1_max_threshold": 4.0,
}  # fmt: skip


def add_decisions(folder: Path, shift: float) -> None:
    """Write decision metrics and thresholds into a run; the last category has many false alarms."""
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["decisions"] = VALUES | {"recall": 0.8 + shift}
    for category in CATEGORIES:
        rate = 0.3 if category == CATEGORIES[-1] else 0.0
        metrics["per_category"][category] |= {
            "decisions": VALUES | {"false_alarm_rate": rate, "recall": 0.8 + shift},
            "expert": category,
            "test_pictures": 10,
            "test_defects": 6,
        }
    entry = {"score_threshold": 3.0 + shift, "normal_images": 20, "source": "training"}
    metrics["thresholds"] = dict.fromkeys(CATEGORIES, entry)
    path.write_text(json.dumps(metrics))


def report(root: Path) -> tuple[list[str], dict[str, Table]]:
    sections = build_report(root, ReportOptions(), "decisions")
    texts = [block for section in sections if section.name == "decisions" for block in section.blocks]
    return [text for text in texts if isinstance(text, str)], tables(sections)


def test_decisions_of_the_best_configuration(tmp_path: Path) -> None:
    for seed, shift in ((0, -0.1), (1, 0.1)):
        add_decisions(write_run(tmp_path, f"main/seed{seed}", seed=seed), shift)
    (text,), result = report(tmp_path)
    assert "classifies 80.0% of the 18 defective and 2.0% of the 12 normal test images as defective" in text
    assert f"In 1 of 3 categories, such as {CATEGORIES[-1]}, more than 5% of the normal images are false alarms" in text
    table = result["decisions1"]
    assert [row[0].text for row in table.cells] == [*sorted(CATEGORIES), "mean"]
    assert [cell.text for cell in table.cells[0]][1:4] == ["0.8000 ± 0.1414", "0.0000 ± 0.0000", "0.8500 ± 0.0000"]
    assert [cell.text for cell in table.cells[0]][-3:] == ["3", "20", "training"]


def test_thresholds_of_images_that_were_trained_on_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "main/seed0")
    add_decisions(folder, 0.0)
    text = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(text.replace('"source": "training"', '"source": "fitted"', 1))
    texts, _ = report(tmp_path)
    assert texts[1].startswith("1 of 3 thresholds are computed from images that were trained on")


def test_calibrations_have_their_threshold(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "main/seed0")
    scores, defects = tuple(np.linspace(1, 2, 150).tolist()), (1.5, 3.0, 4.0, 5.0)
    (folder / "model").mkdir()
    write_calibrations(
        folder / "model",
        {
            "bottle": Calibration(scores, scores, scores, ("bottle",), defects),
            "cable": Calibration(scores, scores, scores, ("bottle",), defects, 3.5, "recall", 0.5),
        },
    )
    _, result = report(tmp_path)
    cells = [[cell.text for cell in row] for row in result["calibrations"].cells]
    value = threshold_at_rate(np.array(scores), 0.01).value
    assert cells == [
        ["main/seed0", "bottle", "rate", "150", "4", f"{value:.4g}", "75.0%"],
        ["main/seed0", "cable", "recall 0.5", "150", "4", "3.5", "50.0%"],
    ]


def test_damaged_calibration_is_one_row(tmp_path: Path) -> None:
    (write_run(tmp_path, "main/seed0") / "model").mkdir()
    (write_run(tmp_path, "main/seed1", seed=1) / "model").mkdir()
    (tmp_path / "main/seed0/model/calibration.json").write_text('{"experts": {"bottle": {"scores": "x"}}}')
    (tmp_path / "main/seed1/model/calibration.json").write_text("[")
    _, result = report(tmp_path)
    assert all(row[2].text.startswith("damaged") for row in result["calibrations"].cells)
    assert len(result["calibrations"].rows) == 2


def test_runs_without_decisions_have_no_section(tmp_path: Path) -> None:
    write_run(tmp_path, "main/seed0")
    assert report(tmp_path) == ([], {})


def test_fewer_false_alarms_are_a_gain(tmp_path: Path) -> None:
    for seed in (0, 1):
        for run, rate, pixel_ap in (("main", 0.3, 0.4), ("lr", 0.1, 0.6)):
            folder = write_run(tmp_path, f"{run}/seed{seed}", {"optimizer.lr": rate}, pixel_ap, seed=seed)
            metrics = json.loads((folder / "metrics.json").read_text())
            metrics["decisions"] = {"false_alarm_rate": rate + 0.001 * seed}
            (folder / "metrics.json").write_text(json.dumps(metrics))
    sections = build_report(tmp_path, ReportOptions(baseline="main/seed0"), "baseline")
    (row,) = [row for row in tables(sections)["baseline1"].cells if row[0].text == "false_alarm_rate"]
    assert (row[7].text[:9], row[7].tone) == ("▼ -0.2000", "good")
