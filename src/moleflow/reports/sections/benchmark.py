"""Section with the benchmark table: categories by configurations for one metric, routed and oracle."""

from collections.abc import Sequence

from moleflow.reports.comparison import ComparisonGroup, Configuration
from moleflow.reports.document import ReportData, Section, find_configuration
from moleflow.reports.metrics import LOWER_IS_BETTER, available_metrics, metric_keys
from moleflow.reports.pareto import pareto_front, points
from moleflow.reports.sections.categories import compared_configurations
from moleflow.reports.tables import Cell, Table, configuration_href

_NUM_BEST = 5
_MAX_VALUES = 400_000  # of all configurations in the page, for its interactive parts
_EQUAL = 5e-5  # routed and oracle values with a smaller difference have the same text


def benchmark(data: ReportData) -> Section:
    """Return a table of categories by configurations per data set, and the same for the other metrics as files."""
    section = Section("benchmark", "Benchmark", widget="benchmark")
    for i, group in enumerate(data.groups):
        shown = benchmark_configurations(data, group)
        for metric in available_metrics(group.configurations):
            table = benchmark_table(group, shown, metric, f"benchmark{i + 1}_{metric}")
            if metric == data.options.metric:
                section.blocks.append(table)
            section.files.append(table)
    section.results = _results(data)
    return section


def benchmark_configurations(data: ReportData, group: ComparisonGroup) -> list[Configuration]:
    """Return the columns of the table that the options select, from the best to the worst.

    By default these are the baseline and the best configurations.
    """
    selected = list(data.options.benchmark)
    if "all" in selected:
        return group.configurations
    members = [c for name in selected if (c := find_configuration(group, name)) is not None]
    if "pareto" in selected:
        members += [c for c, _, _ in pareto_front(points(group))]
    if "best" in selected or not members:
        members += [*group.configurations[:_NUM_BEST], data.baseline(group)]
    return [c for c in group.configurations if c in members]


def benchmark_table(group: ComparisonGroup, shown: Sequence[Configuration], metric: str, name: str) -> Table:
    """Return a metric of each category in percent, with the mean over categories in the last row.

    Args:
        group: The configurations of a data set.
        shown: The configurations of the columns.
        metric: The metric.
        name: Name of the table.
    """
    keys = metric_keys(metric)
    categories = sorted({category for c in shown for category in c.runs[0].per_category})
    paths = {category: ("per_category", category) for category in categories} | {"mean": ()}
    pairs = [(c.mean(*path, *keys), c.mean(*path, "oracle", *keys)) for path in paths.values() for c in shown]
    has_oracle = any(oracle is not None for _, oracle in pairs)
    is_equal = all(r is None or o is None or abs(r - o) < _EQUAL for r, o in pairs)
    modes: tuple[tuple[str, ...], ...] = ((), ("oracle",)) if has_oracle and not is_equal else ((),)
    columns = [f"{c.label} ({c.id}){', oracle' if mode else ''}" for mode in modes for c in shown]
    best, worst = ("lowest", "highest") if metric in LOWER_IS_BETTER else ("highest", "lowest")
    note = f"In percent, mean ± standard deviation over seeds. Bold is the {best} value of a row, underlined the second"
    note += " (routed and oracle separately)." if len(modes) > 1 else "."
    if has_oracle and is_equal:
        note += " The oracle values, with the expert of the true category, equal the routed ones."
    table = Table(name, f"{metric}, {group.dataset}", ("category", *columns), note=note, foot=1)
    for title, path in paths.items():
        row: list[Cell] = [Cell(title, title, emphasis="best" if title == "mean" and not path else "")]
        for mode in modes:
            row += _emphasized([_percent(c, (*path, *mode, *keys)) for c in shown], reverse=worst == "lowest")
        table.rows.append(row)
    return table


def _percent(configuration: Configuration, path: tuple[str, ...]) -> Cell:
    mean, std = configuration.mean(*path), configuration.std(*path)
    if mean is None:
        return Cell("–")
    text = f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")
    return Cell(text, 100 * mean, configuration_href(configuration))


def _emphasized(cells: list[Cell], reverse: bool) -> list[Cell]:
    """Return cells with the best and the second value marked; equal means in two decimals have equal marks."""
    values = sorted({round(cell.value, 2) for cell in cells if isinstance(cell.value, float)}, reverse=reverse)
    marks = dict(zip(values, ("best", "second"), strict=False)) if len(values) > 1 else {}
    return [
        Cell(c.text, c.value, c.href, emphasis=marks.get(round(c.value, 2), "") if isinstance(c.value, float) else "")
        for c in cells
    ]


def _results(data: ReportData) -> dict[str, object]:
    """Return the means of all configurations per category, as far as they fit into the page."""
    remaining = _MAX_VALUES
    groups: list[dict[str, object]] = []
    for group in data.groups:
        left, right = compared_configurations(data, group)
        metrics = available_metrics(group.configurations)
        categories = sorted(group.best.runs[0].per_category)
        configurations: list[dict[str, object]] = []
        for c in (*dict.fromkeys((left, right)), *(c for c in group.configurations if c not in (left, right))):
            remaining -= 2 * len(metrics) * (len(categories) + 1)
            if remaining < 0:
                break
            values = {
                metric: [_column(c, categories, mode, metric_keys(metric)) for mode in ((), ("oracle",))]
                for metric in metrics
            }
            configurations.append(
                {"id": c.id, "label": c.label, "href": configuration_href(c), "values": values}
            )  # fmt: skip
        order = {c.id: rank for rank, c in enumerate(group.configurations)}
        configurations.sort(key=lambda entry: order[str(entry["id"])])
        groups.append({
            "dataset": group.dataset, "categories": categories, "metrics": metrics, "left": left.id, "right": right.id,
            "shown": [c.id for c in benchmark_configurations(data, group)],
            "pareto": [c.id for c, _, _ in pareto_front(points(group))], "configurations": configurations,
        })  # fmt: skip
    return {"metric": data.options.metric, "lower": LOWER_IS_BETTER, "groups": groups}


def _column(
    configuration: Configuration, categories: Sequence[str], mode: tuple[str, ...], keys: tuple[str, ...]
) -> list[float | None]:
    """Return a metric of each category and the mean over categories, rounded."""
    paths = [*(("per_category", category) for category in categories), ()]
    values = [configuration.mean(*path, *mode, *keys) for path in paths]
    return [] if all(v is None for v in values) else [None if v is None else round(v, 5) for v in values]
