"""First screen of the page: what was measured, the best configuration, images of defects, target and warnings."""

from collections import Counter

from moleflow.reports.comparison import ComparisonGroup, Configuration
from moleflow.reports.document import Block, Facts, ReportData, Section, Sentence
from moleflow.reports.metrics import available_metrics, metric_keys
from moleflow.reports.sections.conclusions import interval_text
from moleflow.reports.sections.images import illustrated, image_uri, read_image
from moleflow.reports.sections.warnings import warning_rows
from moleflow.reports.single_key import metric_difference
from moleflow.reports.tables import (
    Cell,
    Item,
    Table,
    configuration_href,
    difference_cell,
    id_cell,
    metric_cell,
    to_cell,
)
from moleflow.runs.content import load_json
from moleflow.runs.reader import Run, as_mapping, finite_number
from moleflow.utils.errors import list_names
from moleflow.utils.text import count_text, one_line
from moleflow.visualization.plots import Plot

_RANKS = ("best", "median", "worst")
_IMPORTANT = (
    "failed", "damaged", "unfinished", "too many", "unrecognized", "skipped steps", "skipped task", "invisible defects",
    "too few seeds", "best not significant", "overfitting",
)  # fmt: skip
"""Kinds of warnings for the first screen, the most important first."""
_MAX_WARNINGS = 4


def overview(data: ReportData) -> Section:
    """Return the result of the largest data set, a table of all data sets, and the most important warnings."""
    section = Section("overview", "Result")
    if data.groups:
        group = data.groups[0]
        section.blocks += [_measured(data), _best(data, group), _facts(data, group), *_strip(group)]
    section.blocks += _warnings(data)
    if data.groups:
        section.blocks.append(_summary(data))
    return section


def _measured(data: ReportData) -> Sentence:
    """Return what was measured: data, categories, runs and seeds."""
    runs = [run for group in data.groups for c in group.configurations for run in c.runs]
    configurations = sum(len(group.configurations) for group in data.groups)
    parts = [f"{group.dataset} ({list_names(group.best.runs[0].categories)})" for group in data.groups[:3]]
    more = f" and {len(data.groups) - 3} more data sets" if len(data.groups) > 3 else ""
    seeds = sorted({run.seed for run in runs})
    text = f"{count_text(len(runs), 'run')} of {count_text(configurations, 'configuration')} with "
    text += f"{count_text(len(seeds), 'seed')} on {'; '.join(parts)}{more}."
    return Sentence([text])


def _best(data: ReportData, group: ComparisonGroup) -> Sentence:
    """Return the best configuration in words, with its gain over the baseline."""
    metric, best, baseline = data.options.metric, group.best, data.baseline(group)
    mean = best.mean(metric)
    if mean is None:
        return Sentence([f"No configuration has {metric}."], "lead")
    parts: list[str | Cell] = ["Best: ", Cell(best.label, href=configuration_href(best)), f" with {metric} {mean:.4f}"]
    std = best.std(metric)
    parts.append(f" ± {std:.4f} over {len(best.by_seed(metric))} seeds" if std is not None else " (one seed)")
    difference = metric_difference(baseline, best, group, metric)
    if baseline is best:
        others = len(group.configurations) - 1
        parts.append(
            f". It is also the baseline; {count_text(others, 'other configuration')} reached less." if others else "."
        )
    elif difference is not None:
        parts += [f", {interval_text(difference)} compared with the baseline "]
        parts += [Cell(baseline.label, href=configuration_href(baseline)), "."]
    return Sentence(parts, "lead")


def _facts(data: ReportData, group: ComparisonGroup) -> Facts:
    """Return the metrics of the best configuration and the distance to the target as tiles."""
    metric, best, baseline = data.options.metric, group.best, data.baseline(group)
    names = [metric, *(m for m in ("image_auroc", "recall", "false_alarm_rate", "routing_accuracy") if m != metric)]
    available = available_metrics([best])
    items = []
    for name in [name for name in names if name in available]:
        keys = metric_keys(name)
        mean, reference = best.mean(*keys), baseline.mean(*keys)
        detail = "" if reference is None or baseline is best else f"baseline {reference:.4f}"
        cell = Cell("–" if mean is None else f"{mean:.4f}", mean, configuration_href(best))
        items.append((name, cell, detail or f"{best.id}"))
    goal = data.target(group, metric)
    mean = best.mean(metric)
    if goal is None or mean is None:
        items.append((f"target of {metric}", Cell("none"), "set one with --target"))
    else:
        reached = mean >= goal
        text = "reached" if reached else f"{goal - mean:.4f} short"
        items.append((
            f"target of {metric}: {goal:g}", Cell(text, mean - goal, "#target", "good" if reached else "bad"),
            f"{mean:.4f} of {goal:g}",
        ))  # fmt: skip
    return Facts(items)


def _strip(group: ComparisonGroup) -> list[Block]:
    """Return the images of best, median and worst defect of the best configuration that has them."""
    shown = illustrated(group)
    if shown is not None and (shown[1].folder / "pictures" / "defects.json").exists():
        return _defects(*shown)
    return ["No run has images of defects: runs with callbacks=default write them."]


def _defects(configuration: Configuration, run: Run) -> list[Block]:
    blocks: list[Block] = []
    try:
        descriptions = as_mapping(load_json(run.folder / "pictures" / "defects.json"))
    except (OSError, ValueError) as error:
        return [f"The images of defects of {run.run_id} are not shown: {one_line(str(error), 200)}."]
    for rank in _RANKS:
        description = as_mapping(descriptions.get(rank))
        if not description:
            continue
        try:
            uri = image_uri(read_image(run.folder / "pictures" / f"defect_{rank}.jpg"))
        except ValueError as error:
            blocks.append(f"The {rank} defect of {run.run_id} is not shown: {error}.")
            continue
        separation = finite_number(description, "separation")
        place = one_line(f"{description.get('category')}/{description.get('image')}", 120)
        note = f"{place}. Image, {'ground truth' if description.get('has_mask') else 'no ground truth'}, anomaly map. "
        if separation is not None:
            note += f"Score {separation:+.1f} standard deviations from the mean of the normal images. "
        note += f"{configuration.label}, seed {run.seed}."
        blocks.append(Plot(f"{rank.capitalize()} separated defect", uri, note, photo=True))
    return blocks


def _warnings(data: ReportData) -> list[Block]:
    """Return the most important warnings: the first of each kind and the number of the others."""
    rows = [[to_cell(item) for item in row] for row in warning_rows(data)]
    counts = Counter(row[0].text for row in rows)
    blocks: list[Block] = []
    for kind in [kind for kind in _IMPORTANT if counts[kind]][:_MAX_WARNINGS]:
        _, where, description = next(row for row in rows if row[0].text == kind)
        more = f" (and {counts[kind] - 1} more)" if counts[kind] > 1 else ""
        parts: list[str | Cell] = [f"{kind}: ", where, f": {one_line(description.text, 300)}{more}"]
        blocks.append(Sentence(parts, "warning"))
    if len(rows) > len(blocks):
        blocks.append(Sentence([Cell(count_text(len(rows), "warning"), href="#warnings")]))
    return blocks


def _summary(data: ReportData) -> Table:
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
        difference = None if baseline is best else metric_difference(baseline, best, group, metric)
        if difference is None:
            row += [None, "the baseline is the best" if baseline is best else "–"]
        else:
            row += [difference_cell(difference, best), difference.verdict]
        table.rows.append([*row, _target_cell(best, mean, data.target(group, metric))])
    return table


def _target_cell(best: Configuration, mean: float | None, target: float | None) -> Cell | None:
    """Return whether a mean reaches the target; None without a mean or target."""
    if mean is None or target is None:
        return None
    if mean >= target:
        return Cell(f"{target:g} reached, {mean - target:+.4f}", mean - target, configuration_href(best), "good")
    return Cell(f"{target:g} missed by {target - mean:.4f}", mean - target, configuration_href(best), "bad")
