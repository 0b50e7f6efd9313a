"""Category by category: two configurations beside each other, bottlenecks, and data sets beside each other."""

from moleflow.report.configurations import Bench, Configuration
from moleflow.report.content import Content, Section, matching
from moleflow.report.runs import METRICS
from moleflow.report.tables import Table, change_cell, link, metric_cell, name_cell

_BOTTLENECKS = 5


def per_category(content: Content) -> Section:
    """Return gains and losses a category between two configurations; the page lets the reader choose them."""
    section = Section("categories", "Categories")
    choices = []
    for i, bench in enumerate(content.benches):
        left, right = chosen(content, bench)
        metric = content.options.metric
        table = Table(
            f"categories{i + 1}", f"{bench.dataset}: {right.name} against {left.name}",
            ("category", f"{metric} {left.name}", f"{metric} {right.name}", "gain",
             f"image_auroc {left.name}", f"image_auroc {right.name}", "gain ", "train pictures"),
            note=f"{left.name}: {left.label}. {right.name}: {right.label}.",
        )  # fmt: skip
        for category in sorted({c for run in right.runs for c in run.categories}):
            row: list[object] = [category]
            for name in (metric, "image_auroc"):
                a, b = (side.mean("per_category", category, name) for side in (left, right))
                row += [metric_cell(side, "per_category", category, name) for side in (left, right)]
                row.append(change_cell(None if a is None or b is None else b - a, href=link(right)))
            count = right.mean("per_category", category, "train_pictures")
            table.rows.append([*row, None if count is None else int(count)])
        if left is right:  # the only one: nothing to compare
            table.title, table.note = f"{bench.dataset}: {right.name}", f"{right.label}."
            table.columns = ("category", metric, "image_auroc", "train pictures")
            table.rows = [[row[0], row[2], row[5], row[7]] for row in table.rows]
        else:
            choices.append(_choice(bench, left, right))
        section.blocks += [table, _bottlenecks(bench, metric, i)]
    if choices:
        section.chooser = {"metrics": METRICS, "metric": content.options.metric, "benches": choices}
    return section


def chosen(content: Content, bench: Bench) -> tuple[Configuration, Configuration]:
    """Return the two configurations to compare: those named, else baseline and best (or second and best)."""
    named = [c for name in content.options.compare if (c := matching(bench, name)) is not None]
    if len(named) == 2:
        return named[0], named[1]
    base = content.baseline(bench)
    if base is bench.best and len(bench.configurations) > 1:
        base = bench.configurations[1]
    return base, bench.best


def _bottlenecks(bench: Bench, metric: str, i: int) -> Table:
    best = bench.best
    table = Table(
        f"bottlenecks{i + 1}", f"{bench.dataset}: categories that hold {best.name} back",
        ("category", metric, "against the mean", "mean of the others", "best of any configuration", "reached by"),
        note=f"The {_BOTTLENECKS} lowest of those below the mean. The last columns say whether some configuration does "
        "better there.",
    )  # fmt: skip
    values = {c: v for c in best.runs[0].categories if (v := best.mean("per_category", c, metric)) is not None}
    mean = sum(values.values()) / max(1, len(values))
    below = [category for category, value in values.items() if value < mean - 1e-12]  # rounding is no difference
    for category in sorted(below, key=lambda c: values[c])[:_BOTTLENECKS]:
        others = [value for name, value in values.items() if name != category]
        top = max(bench.configurations, key=lambda c: c.mean("per_category", category, metric) or 0.0)
        table.rows.append(
            [category, metric_cell(best, "per_category", category, metric)]
            + [change_cell(values[category] - mean, href=link(best))]
            + [
                sum(others) / len(others) if others else None,
                metric_cell(top, "per_category", category, metric),
                name_cell(top),
            ]
        )
    return table


def _choice(bench: Bench, left: Configuration, right: Configuration) -> dict[str, object]:
    """Return the means by category of all configurations, for the page's own table."""
    categories = sorted(bench.best.runs[0].categories)
    return {
        "dataset": bench.dataset,
        "categories": categories,
        "left": left.name,
        "right": right.name,
        "configurations": [
            {
                "name": c.name,
                "label": c.label,
                "href": link(c),
                "values": {m: [c.mean("per_category", category, m) for category in categories] for m in METRICS},
            }
            for c in bench.configurations
        ],
    }


def datasets(content: Content) -> Section:
    """Return the best of every data set beside one another."""
    table = Table(
        "datasets", "The best of each data set",
        ("data set", "configurations", "runs", "name", "configuration", *METRICS),
        note="Different pictures: no line is better than another.",
    )  # fmt: skip
    for bench in content.benches:
        runs = sum(len(c.runs) for c in bench.configurations)
        values = [metric_cell(bench.best, metric) for metric in METRICS]
        table.rows.append(
            [bench.dataset, len(bench.configurations), runs, name_cell(bench.best), bench.best.label, *values]
        )
    return Section("datasets", "Data sets", [table] if len(table.rows) > 1 else [])
