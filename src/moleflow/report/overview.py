"""What is looked at first: summary, leaderboard, trade-off, cost, reported numbers, runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moleflow.report.configurations import Configuration, differing_keys
from moleflow.report.content import Content, Section
from moleflow.report.plots import trade_off
from moleflow.report.public import other_pictures
from moleflow.report.runs import METRICS, Run, mapping, number
from moleflow.report.statistics import compare
from moleflow.report.tables import Cell, Item, Table, change_cell, link, metric_cell, name_cell, run_cell, run_link

REPORTED = ("pixel_ap", "image_auroc", "pixel_auroc", "image_ap")


def summary(content: Content) -> Section:
    """Return the best configuration of each data set against baseline and target."""
    metric = content.options.metric
    table = Table(
        "summary",
        "Best against baseline and target",
        ("data set", "runs", "best", "configuration", metric, "baseline",
         f"baseline {metric}", "gain", "verdict", "target"),
        note="The baseline is the configuration with the most others that differ from it in one key, unless one "
        "is named. "
        "± is the standard deviation over seeds, for a gain the half width of its 95 % interval.",
    )  # fmt: skip
    for bench in content.benches:
        base, best = content.baseline(bench), bench.best
        runs = sum(len(c.runs) for c in bench.configurations)
        mean = best.mean(metric)
        row: list[Item] = [bench.dataset, runs, name_cell(best), best.label, metric_cell(best, metric)]
        if base is best or mean is None or base.mean(metric) is None:
            row += [
                name_cell(base),
                metric_cell(base, metric),
                None,
                "the best is the baseline" if base is best else "–",
            ]
        else:
            gain = compare(base.by_seed(metric), best.by_seed(metric), bench.noise(metric))
            sure = gain.verdict == "beyond the noise"
            row += [
                name_cell(base),
                metric_cell(base, metric),
                change_cell(gain.value, gain.interval, link(best), sure),
            ]
            row.append(gain.verdict)
        table.rows.append([*row, _reached(best, mean, content.target(bench, metric))])
    return Section("summary", "Summary", [table])


def _reached(best: Configuration, mean: float | None, target: float | None) -> Cell | None:
    """Return how a mean stands to the target, if there is one."""
    if mean is None or target is None:
        return None
    if mean >= target:
        return Cell(f"{target:g} reached, {mean - target:+.4f}", mean - target, link(best), "good")
    return Cell(f"{target:g} missed by {target - mean:.4f}", mean - target, link(best), "bad")


def leaderboard(content: Content) -> Section:
    """Return all configurations by the chosen metric; the page sorts them by any other."""
    section = Section("leaderboard", "Leaderboard")
    for i, bench in enumerate(content.benches):
        base = content.baseline(bench)
        table = Table(
            f"leaderboard{i + 1}",
            bench.dataset,
            ("rank", "name", "configuration", "seeds", *METRICS, "differs from baseline in"),
            note=f"By {content.options.metric}; click a column to sort by another.",
        )
        for rank, configuration in enumerate(bench.configurations, 1):
            values = [metric_cell(configuration, metric) for metric in METRICS]
            keys = differing_keys(base, configuration)
            seeds = len({run.seed for run in configuration.runs})
            changed = "(baseline)" if configuration is base else f"{len(keys)}: {', '.join(keys)}"
            table.rows.append([rank, name_cell(configuration), configuration.label, seeds, *values, changed])
        section.blocks.append(table)
    return section


def pareto(content: Content) -> Section:
    """Return image AUROC against pixel AP with the configurations that no other beats in both."""
    section = Section("pareto", "Trade-off")
    for bench in content.benches:
        points = [
            (c, x, y)
            for c in bench.configurations
            if (x := c.mean("image_auroc")) is not None and (y := c.mean("pixel_ap")) is not None
        ]
        if len(points) < 2:
            continue
        front = pareto_front(points)
        ends = sorted({(x, y) for _, x, y in front})
        named = [(c.name, x, y) for c, x, y in points]
        section.blocks.append(trade_off(bench.dataset, named, ends, content.target(bench, "pixel_ap")))
        table = Table(
            f"pareto_{bench.configurations[0].name}",
            f"Pareto front, {bench.dataset}",
            ("name", "configuration", "image_auroc", "pixel_ap"),
        )
        table.rows = [
            [name_cell(c), c.label, metric_cell(c, "image_auroc"), metric_cell(c, "pixel_ap")] for c, _, _ in front
        ]
        section.blocks.append(table)
    return section


def pareto_front(points: Sequence[tuple[Configuration, float, float]]) -> list[tuple[Configuration, float, float]]:
    """Return the points that no other one equals or beats in both coordinates and beats in one."""
    front = []
    highest = -float("inf")
    for point in sorted(
        points, key=lambda p: (-round(p[1], 9), -p[2])
    ):  # a mean of equal numbers may miss them by a bit
        if point[2] > highest:
            front.append(point)
            highest = point[2]
    return front


def cost(content: Content) -> Section:
    """Return seconds, parameters and memory of every configuration."""
    table = Table(
        "cost",
        "What a run costs",
        ("data set", "name", "configuration", "features s", "training s", "evaluation s", "s a task", "base parameters",
         "parameters an expert", "kept for later tasks",
         "backbone parameters", "model MB", "peak memory MB", "peak GPU MB", "device"),
        note="Means over seeds. Seconds depend on the machine: compare them where the device is the same.",
    )  # fmt: skip
    for bench in content.benches:
        for c in bench.configurations:
            run = c.runs[0]
            experts = [
                n
                for name in mapping(mapping(run.metrics.get("parameters")).get("experts"))
                if (n := run.value("parameters", "experts", name))
            ]
            tasks = len(mapping(run.metrics.get("task_matrix")).get("tasks", [])) or 1
            seconds = [c.mean("seconds", what) for what in ("features", "training", "evaluation")]
            training = seconds[1]
            table.rows.append(
                [bench.dataset, name_cell(c), c.label]
                + [_plain(value, 1, link(c)) for value in seconds]
                + [_plain(None if training is None else training / tasks, 1, link(c))]
                + [_plain(run.value("parameters", "base"), 0, link(c))]
                + [_plain(sum(experts) / len(experts) if experts else None, 0, link(c))]
                + [_plain(run.value("parameters", kind), 0, link(c)) for kind in ("kept", "backbone")]
                + [_plain(_model_megabytes(run), 1, link(c))]
                + [_plain(_mega(c.mean("memory", key)), 0, link(c)) for key in ("peak_bytes", "peak_gpu_bytes")]
                + [str(run.metrics.get("device", "–"))]
            )
    return Section("cost", "Cost", [table])


def reported(content: Content) -> Section:
    """Return measured numbers beside those that the config carries as ``reported:``."""
    table = Table(
        "reported",
        "Measured against reported",
        ("data set", "name", "configuration", "seeds", "metric", "measured", "reported",
         "difference", "tolerance", "verdict", "note"),
        note="Tolerance: two standard deviations between seeds, of the configuration's own seeds or, with one seed, "
        "of all configurations that have several. Numbers of other pictures are not compared.",
    )  # fmt: skip
    for bench in content.benches:
        for c in bench.configurations:
            claims = mapping(c.runs[0].config.get("reported"))
            note, other = str(claims.get("note") or ""), other_pictures(c.runs[0], claims)
            for metric in REPORTED:
                claim, mean = number(claims, metric), c.mean(metric)
                if claim is None or mean is None:
                    continue
                sd = c.sd(metric) if c.sd(metric) is not None else bench.noise(metric).sd
                tolerance = None if sd is None else 2 * sd
                sure = tolerance is not None and abs(mean - claim) > tolerance
                table.rows.append(
                    [bench.dataset, name_cell(c), c.label, len(c.by_seed(metric)), metric, metric_cell(c, metric)]
                    + [claim, None if other else change_cell(mean - claim, href=link(c), sure=sure)]
                    + [None if other else tolerance, other or agreement(mean - claim, tolerance), note]
                )
    return Section("reported", "Measured against reported", [table] if table.rows else [])


def agreement(difference: float, tolerance: float | None) -> Cell:
    """Return the verdict on measured minus reported."""
    if tolerance is None:
        return Cell("no tolerance: one seed", "no tolerance: one seed", tone="unsure")
    if abs(difference) <= tolerance:
        return Cell("match", "match", tone="good")
    return Cell("better", "better", tone="good") if difference > 0 else Cell("worse", "worse", tone="bad")


def run_table(content: Content) -> Section:
    """Return every run: where every number of the page comes from."""
    table = Table(
        "runs", "All runs", ("run", "configuration", "label", "data set", "seed", *METRICS, "finished", "files")
    )
    anchors: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for bench in content.benches:
        for c in bench.configurations:
            for run in c.runs:
                names = [run_link(run)[1:]] + ([c.name] if c.name not in seen else [])
                seen.add(c.name)
                anchors.append(tuple(names))
                values = [run_cell(run, metric) for metric in METRICS]
                files = Cell("folder", str(run.folder), content.address(run.folder))
                table.rows.append(
                    [Cell(run.place, run.place, content.address(run.folder / "metrics.json")), c.name]
                    + [c.label, bench.dataset, run.seed]
                    + values + [str(run.metrics.get("finished", "–")), files]
                )  # fmt: skip
    return Section("runs", "Runs", [table], anchors={table.name: anchors})


def address(target: Path, page: Path) -> str:
    """Return a link from the page's folder to a file: relative, so that both can move together."""
    from urllib.parse import quote

    return quote(Path(os.path.relpath(target, page.resolve())).as_posix())


def _plain(value: float | None, digits: int, href: str) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:,.{digits}f}".replace(",", " "), value, href)


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _model_megabytes(run: Run) -> float | None:
    """Return the size of the run's model folder by its manifest."""
    import json

    try:
        manifest: Any = json.loads((run.folder / "model" / "manifest.json").read_text(encoding="utf-8"))
        return sum(float(entry["bytes"]) for entry in manifest["files"].values()) / 1e6
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
