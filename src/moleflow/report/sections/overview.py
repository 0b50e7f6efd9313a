"""Sections on whole configurations: summary, leaderboard, trade-off, cost, reported values, and all runs."""

from collections.abc import Sequence
from pathlib import Path

from moleflow.catalogue.comparison import TOLERANCE_RULE, RecordComparison, compare_with_record
from moleflow.catalogue.records import recorded_run
from moleflow.report.comparison import Configuration, differing_keys
from moleflow.report.document import ReportData, Section
from moleflow.report.reference_datasets import image_mismatch
from moleflow.report.statistics import compare
from moleflow.report.tables import (
    Cell,
    Item,
    Table,
    change_cell,
    configuration_href,
    difference_cell,
    id_cell,
    metric_cell,
    number_cell,
    run_cell,
    run_href,
)
from moleflow.runs.content import METRICS
from moleflow.runs.reader import Run, as_mapping, finite_number
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_json
from moleflow.visualization.plots import pareto_plot

REPORTED_METRICS = ("pixel_ap", "image_auroc", "pixel_auroc", "image_ap")


def summary(data: ReportData) -> Section:
    """Return the best configuration of each data set compared with baseline and target."""
    metric = data.options.metric
    table = Table(
        "summary",
        "Best configuration, baseline and target",
        ("data set", "runs", "best", "configuration", metric, "baseline",
         f"baseline {metric}", "difference", "verdict", "target"),
        note="The baseline is the configuration from which most others differ in a single key, unless --baseline "
        "selects one. ± is the standard deviation over seeds; of a difference it is the half width of the 95 % "
        "confidence interval.",
    )  # fmt: skip
    for group in data.groups:
        baseline, best = data.baseline(group), group.best
        mean = best.mean(metric)
        row: list[Item] = [group.dataset, group.num_runs, id_cell(best), best.label, metric_cell(best, metric)]
        row += [id_cell(baseline), metric_cell(baseline, metric)]
        if baseline is best or mean is None or baseline.mean(metric) is None:
            row += [None, "the baseline is the best" if baseline is best else "–"]
        else:
            difference = compare(baseline.by_seed(metric), best.by_seed(metric), group.noise(metric))
            row += [difference_cell(difference, best), difference.verdict]
        table.rows.append([*row, _target_cell(best, mean, data.target(group, metric))])
    return Section("summary", "Summary", [table])


def leaderboard(data: ReportData) -> Section:
    """Return all configurations of each data set, sorted by the report's metric."""
    section = Section("leaderboard", "Leaderboard")
    for i, group in enumerate(data.groups):
        baseline = data.baseline(group)
        table = Table(
            f"leaderboard{i + 1}",
            group.dataset,
            ("rank", "id", "configuration", "seeds", *METRICS, "keys that differ from the baseline"),
            note=f"Sorted by {data.options.metric}; click a column to sort by it.",
        )
        for rank, configuration in enumerate(group.configurations, 1):
            values = [metric_cell(configuration, metric) for metric in METRICS]
            keys = differing_keys(baseline, configuration)
            seeds = len({run.seed for run in configuration.runs})
            changes = "(baseline)" if configuration is baseline else f"{len(keys)}: {', '.join(keys)}"
            table.rows.append([rank, id_cell(configuration), configuration.label, seeds, *values, changes])
        section.blocks.append(table)
    return section


def trade_off(data: ReportData) -> Section:
    """Return image AUROC over pixel AP, and the configurations on the Pareto front."""
    section = Section("pareto", "Trade-off")
    for group in data.groups:
        points = [
            (c, x, y)
            for c in group.configurations
            if (x := c.mean("image_auroc")) is not None and (y := c.mean("pixel_ap")) is not None
        ]
        if len(points) < 2:
            continue
        front = pareto_front(points)
        front_points = sorted({(x, y) for _, x, y in front})
        labeled = [(c.id, x, y) for c, x, y in points]
        section.blocks.append(pareto_plot(group.dataset, labeled, front_points, data.target(group, "pixel_ap")))
        table = Table(
            f"pareto_{group.best.id}",
            f"Pareto front, {group.dataset}",
            ("id", "configuration", "image_auroc", "pixel_ap"),
        )
        table.rows = [
            [id_cell(c), c.label, metric_cell(c, "image_auroc"), metric_cell(c, "pixel_ap")] for c, _, _ in front
        ]
        section.blocks.append(table)
    return section


def pareto_front(points: Sequence[tuple[Configuration, float, float]]) -> list[tuple[Configuration, float, float]]:
    """Return the points that no other point dominates, in descending order of the first coordinate."""
    front = []
    highest = -float("inf")
    for point in sorted(points, key=lambda p: (-round(p[1], 9), -p[2])):  # means of equal values differ by rounding
        if point[2] > highest:
            front.append(point)
            highest = point[2]
    return front


def cost(data: ReportData) -> Section:
    """Return time, parameters and memory of each configuration."""
    table = Table(
        "cost",
        "Cost of a run",
        ("data set", "id", "configuration", "feature extraction (s)", "training (s)", "evaluation (s)",
         "training per task (s)", "base parameters", "parameters per expert", "values kept between tasks",
         "backbone parameters", "model (MB)", "peak memory (MB)", "peak GPU memory (MB)", "device"),
        note="Means over seeds. Times depend on the machine: compare them only between equal devices.",
    )  # fmt: skip
    for group in data.groups:
        for c in group.configurations:
            run, href = c.runs[0], configuration_href(c)
            experts = [
                count
                for name in as_mapping(as_mapping(run.metrics.get("parameters")).get("experts"))
                if (count := run.value("parameters", "experts", name))
            ]
            num_tasks = len(as_mapping(run.metrics.get("task_matrix")).get("tasks", [])) or 1
            extraction, training, evaluation = (
                c.mean("seconds", step) for step in ("features", "training", "evaluation")
            )
            peak, peak_gpu = (c.mean("memory", key) for key in ("peak_bytes", "peak_gpu_bytes"))
            table.rows.append(
                [group.dataset, id_cell(c), c.label]
                + [number_cell(seconds, 1, href) for seconds in (extraction, training, evaluation)]
                + [number_cell(None if training is None else training / num_tasks, 1, href)]
                + [number_cell(run.value("parameters", "base"), 0, href)]
                + [number_cell(sum(experts) / len(experts) if experts else None, 0, href)]
                + [number_cell(run.value("parameters", key), 0, href) for key in ("kept", "backbone")]
                + [number_cell(_megabytes(_model_bytes(run)), 1, href)]
                + [number_cell(_megabytes(size), 0, href) for size in (peak, peak_gpu)]
                + [str(run.metrics.get("device", "–"))]
            )
    return Section("cost", "Cost", [table])


def reported(data: ReportData) -> Section:
    """Return measured metrics beside the values in the config's ``reported``."""
    table = Table(
        "reported",
        "Measured and reported metrics",
        ("data set", "id", "configuration", "seeds", "metric", "measured", "reported",
         "difference", "tolerance", "verdict", "note"),
        note=f"The reported values are those in the config key reported. {TOLERANCE_RULE} Values of other images, and "
        "those with compare=false, are not compared.",
    )  # fmt: skip
    for group in data.groups:
        for c in group.configurations:
            values = as_mapping(c.runs[0].config.get("reported"))
            name = str(values.get("run"))
            mismatch = image_mismatch(c.runs[0], name)
            reason = mismatch or ("not compared" if values.get("compare") is False else "")
            row = recorded_run(name)
            for metric in REPORTED_METRICS:
                value, measured = finite_number(values, metric), c.by_seed(metric)
                if value is None or not measured:
                    continue
                record = compare_with_record(
                    measured.values(), value, metric, row["group"] if row else None, group.noise(metric).std
                )
                table.rows.append(
                    [group.dataset, id_cell(c), c.label, len(measured), metric, metric_cell(c, metric), value]
                    + ([None, None, reason] if reason else _record_cells(record, c))
                    + [str(values.get("note") or "")]
                )
    return Section("reported", "Measured and reported", [table] if table.rows else [])


def run_table(data: ReportData) -> Section:
    """Return all runs with links to their files; ids elsewhere in the page link to this table."""
    table = Table("runs", "All runs", ("run", "id", "configuration", "data set", "seed", *METRICS, "finished", "files"))
    anchors: list[tuple[str, ...]] = []
    for group in data.groups:
        for c in group.configurations:
            for i, run in enumerate(c.runs):
                anchors.append((run_href(run)[1:], *([] if i else [c.id])))
                values = [run_cell(run, metric) for metric in METRICS]
                files = Cell("folder", str(run.folder), data.file_link(run.folder))
                table.rows.append(
                    [Cell(run.run_id, run.run_id, data.file_link(run.folder / "metrics.json")), c.id]
                    + [c.label, group.dataset, run.seed]
                    + values + [str(run.metrics.get("finished", "–")), files]
                )  # fmt: skip
    return Section("runs", "Runs", [table], anchors={table.name: anchors})


def _target_cell(best: Configuration, mean: float | None, target: float | None) -> Cell | None:
    """Return whether a mean reaches the target; None without a mean or target."""
    if mean is None or target is None:
        return None
    if mean >= target:
        return Cell(f"{target:g} reached, {mean - target:+.4f}", mean - target, configuration_href(best), "good")
    return Cell(f"{target:g} missed by {target - mean:.4f}", mean - target, configuration_href(best), "bad")


def _record_cells(record: RecordComparison, configuration: Configuration) -> list[Item]:
    """Return difference, tolerance and verdict."""
    tone = {"match": "good", "better": "good", "worse": "bad", "no tolerance": "unsure"}[record.verdict]
    text = "no tolerance: one seed" if record.verdict == "no tolerance" else record.verdict
    is_significant = record.verdict in ("better", "worse")
    return [
        change_cell(record.difference, href=configuration_href(configuration), is_significant=is_significant),
        record.tolerance,
        Cell(text, text, tone=tone),
    ]


def _megabytes(size: float | None) -> float | None:
    return None if size is None else size / 1e6


def _model_bytes(run: Run) -> float | None:
    """Return the size of the run's model folder according to its manifest, None without a readable one."""
    path: Path = run.folder / "model" / "manifest.json"
    try:
        return sum(float(entry["bytes"]) for entry in read_json(path)["files"].values())
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return None
