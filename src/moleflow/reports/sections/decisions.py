"""Section of the decisions at the thresholds, and of the calibrations by other images."""

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import numpy as np

from moleflow.detector.calibration import Calibration, read_calibrations
from moleflow.reports.comparison import ComparisonGroup, Configuration
from moleflow.reports.document import ReportData, Section
from moleflow.reports.metrics import metric_keys
from moleflow.reports.tables import Cell, Item, Table, configuration_href, metric_cell, run_href
from moleflow.runs.content import MAX_CATEGORIES
from moleflow.runs.reader import Run, as_mapping, finite_number
from moleflow.scoring.thresholds import FALSE_ALARM_RATE, threshold_at_rate
from moleflow.utils.errors import UserError
from moleflow.utils.text import one_line

_MANY_FALSE_ALARMS = 5 * FALSE_ALARM_RATE
_COLUMNS = ("recall", "false_alarm_rate", "f1", "f1_max", "f1_max_threshold", "unknown_rate")
_MAX_CALIBRATIONS = 200  # rows


def decisions(data: ReportData) -> Section:
    """Return the decisions of the best configuration by category, and the calibrations of all runs."""
    section = Section("decisions", "Decisions")
    for i, group in enumerate(data.groups):
        best = group.best
        if best.mean("decisions", "recall") is not None or best.mean("decisions", "f1_max") is not None:
            section.blocks += [_summary(best), *_low_thresholds(best), _table(best, f"decisions{i + 1}", group)]
    calibrations = _calibrations(data)
    section.blocks += [calibrations] if calibrations.rows else []
    return section


def _summary(best: Configuration) -> str:
    """Return what the thresholds mean for the images of a line, and what a calibration could gain."""
    recall, alarms, unknown, f1, f1_max = (
        best.mean(*metric_keys(name)) for name in ("recall", "false_alarm_rate", "unknown_rate", "f1", "f1_max")
    )
    name = f"{best.label} ({best.id})"
    if recall is None or alarms is None:
        return f"{name} has no thresholds in all categories, so its false alarms and its recall are undefined."
    defects, images = (_count(best, key) for key in ("test_defects", "test_pictures"))
    text = f"{name} classifies {recall:.1%} of the {defects or ''} defective and {alarms:.1%} of the "
    text += f"{images - defects or ''} normal test images as defective (means over categories)"
    text = " ".join(text.split())
    text += f", and {unknown:.1%} of all as of an unknown category" if unknown is not None else ""
    text += f". Its thresholds are computed for a false-alarm rate of {FALSE_ALARM_RATE:.0%} on new normal images."
    if f1 is not None and f1_max is not None:
        text += f" Their F1 score is {f1:.3f}; the best single threshold per category would have {f1_max:.3f}."
    rates = {c: best.mean("per_category", c, "decisions", "false_alarm_rate") for c in best.runs[0].per_category}
    many = [c for c, rate in rates.items() if rate is not None and rate > _MANY_FALSE_ALARMS]
    if many:
        text += f" In {len(many)} of {len(rates)} categories, such as {many[0]}, more than {_MANY_FALSE_ALARMS:.0%} of "
        text += "the normal images are false alarms: calibrate these experts by normal images of the line, with "
        text += "moleflow calibrate RUN FOLDER."
    return text


def _count(best: Configuration, key: str) -> int:
    """Return a number of test images over all categories; 0 if it is not recorded."""
    values = (finite_number(entry, key) for entry in best.runs[0].per_category.values())
    return int(sum(value for value in values if value is not None))


def _low_thresholds(best: Configuration) -> list[str]:
    """Return a warning about thresholds that were computed from scores of images that were trained on."""
    entries = [as_mapping(entry) for run in best.runs for entry in as_mapping(run.metrics.get("thresholds")).values()]
    fitted = sum(entry.get("source") == "fitted" for entry in entries)
    if not fitted:
        return []
    return [
        f"{fitted} of {len(entries)} thresholds are computed from images that were trained on (source fitted) and too "
        "low: new normal images have higher scores. Set validation=0.2, or calibrate the experts."
    ]


def _table(best: Configuration, name: str, group: ComparisonGroup) -> Table:
    """Return the decision metrics and the thresholds by category, with the mean in the last row."""
    thresholds = [as_mapping(run.metrics.get("thresholds")) for run in best.runs]
    has_thresholds = any(thresholds)
    table = Table(
        name, f"{group.dataset}: decisions of {best.id}",
        ("category", *_COLUMNS, *(("score_threshold", "normal images", "source") if has_thresholds else ())),
        note=f"{best.label}. recall and false_alarm_rate: shares of the defective and the normal test images above the "
        "score threshold. f1_max: F1 score of the best single threshold, which is chosen by the test images and so an "
        "upper bound. unknown_rate: share of test images above the distance threshold. Values are means over seeds.",
        foot=1,
    )  # fmt: skip
    for category in sorted(best.runs[0].per_category):
        row: list[Item] = [category]
        row += [metric_cell(best, "per_category", category, "decisions", metric) for metric in _COLUMNS]
        if has_thresholds:
            expert = str(best.runs[0].per_category[category].get("expert", category))
            row += _threshold_cells(best, [as_mapping(each.get(expert)) for each in thresholds])
        table.rows.append(row)
    means: list[Item] = [Cell("mean", "mean", emphasis="best")]
    means += [metric_cell(best, "decisions", m) if m != "f1_max_threshold" else None for m in _COLUMNS]
    table.rows.append([*means, *([None] * 3 if has_thresholds else [])])
    return table


def _threshold_cells(best: Configuration, entries: list[dict[str, Any]]) -> list[Item]:
    """Return score threshold, number of normal images and source of an expert's thresholds."""
    values = [value for entry in entries if (value := finite_number(entry, "score_threshold")) is not None]
    counts = [int(value) for entry in entries if (value := finite_number(entry, "normal_images")) is not None]
    sources = sorted({one_line(str(entry["source"]), 40) for entry in entries if "source" in entry})
    mean = fmean(values) if values else None
    return [
        Cell("no threshold" if mean is None else f"{mean:.4g}", mean, configuration_href(best)),
        min(counts, default=None),
        ", ".join(sources) or None,
    ]


def _calibrations(data: ReportData) -> Table:
    """Return the calibrations of all runs, one row per expert."""
    table = Table(
        "calibrations", "Calibrations",
        ("run", "expert", "criterion", "normal images", "defective images", "score threshold", "defects above it"),
        note="Thresholds by images that were not trained on (moleflow calibrate), which moleflow predict uses in place "
        f"of those of training. For the criterion rate the threshold is that of a false-alarm rate of "
        f"{FALSE_ALARM_RATE:.0%}, the default of moleflow predict. The metrics above are those of training.",
    )  # fmt: skip
    for run in (run for group in data.groups for c in group.configurations for run in c.runs):
        table.rows += list(_calibration_rows(run))[: _MAX_CALIBRATIONS - len(table.rows)]
    return table


def _calibration_rows(run: Run) -> Iterator[list[Item]]:
    place = Cell(run.run_id, run.run_id, run_href(run))
    for folder in (run.folder / "model", run.folder):  # of an ensemble it is in the run folder
        try:
            calibrations = read_calibrations(folder)
            rows = [_calibration_row(place, name, each) for name, each in calibrations.items()]
        except UserError as error:
            yield [place, None, Cell(f"damaged: {one_line(str(error), 200)}", tone="bad"), *[None] * 4]
            continue
        yield from rows[:MAX_CATEGORIES]


def _calibration_row(place: Cell, name: str, calibration: Calibration) -> list[Item]:
    """Return the calibration of one expert.

    Raises:
        UserError: If a score is not finite.
    """
    defects, threshold, criterion = np.array(calibration.defect_scores), calibration.threshold, calibration.criterion
    if threshold is None:
        threshold = threshold_at_rate(np.array(calibration.scores), FALSE_ALARM_RATE).value
    if calibration.recall is not None:
        criterion += f" {calibration.recall:g}"
    above = None if threshold is None or not len(defects) else f"{float((defects > threshold).mean()):.1%}"
    shown = Cell("no threshold", tone="bad") if threshold is None else Cell(f"{threshold:.4g}", threshold)
    count = len(calibration.scores)
    return [place, one_line(name, 80), one_line(criterion, 40), count, len(defects) or None, shown, above]
