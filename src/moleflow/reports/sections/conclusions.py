"""Section of conclusions: sentences built from the metrics, each with a link to its evidence."""

from collections import defaultdict
from collections.abc import Iterator

from moleflow.reports.comparison import ComparisonGroup, Configuration
from moleflow.reports.document import ReportData, Section
from moleflow.reports.single_key import Effect, metric_difference
from moleflow.reports.statistics import Difference
from moleflow.reports.tables import Cell, Table
from moleflow.utils.errors import list_names

_NUM_EFFECTS = 3
_NUM_CATEGORIES = 3
_MUCH_FASTER = 2.0  # times


def conclusions(data: ReportData) -> Section:
    """Return the conclusions of each data set."""
    section = Section("conclusions", "Conclusions", question="What do the runs show?")
    for i, group in enumerate(data.groups):
        table = Table(
            f"conclusions{i + 1}", group.dataset, ("conclusion", "evidence"),
            note="Differences are called significant after Holm's adjustment; brackets are 95 % confidence intervals "
            "over seeds.",
        )  # fmt: skip
        for sentences in (_best, _effects, _categories, _decisions, _continual, _cost):
            for text, title, target in sentences(data, group, str(i + 1)):
                table.rows.append([text, Cell(title, title, f"#table-{target}")])
        section.blocks += [table] if table.rows else []
    return section


def interval_text(difference: Difference) -> str:
    """Return a difference with its confidence interval and verdict."""
    if difference.interval is None:
        return f"{difference.value:+.4f} ({difference.verdict}: {difference.test})"
    low, high = difference.value - difference.interval, difference.value + difference.interval
    return f"{difference.value:+.4f} [{low:+.4f}, {high:+.4f}] ({difference.verdict})"


def name(configuration: Configuration) -> str:
    """Return label and id of a configuration."""
    return f"{configuration.label} ({configuration.id})"


_Sentences = Iterator[tuple[str, str, str]]
"""Text, title of the evidence, and name of its table."""


def _best(data: ReportData, group: ComparisonGroup, number: str) -> _Sentences:
    metric, best = data.options.metric, group.best
    mean = best.mean(metric)
    if mean is None:
        yield f"No configuration has {metric}.", "Leaderboard", f"leaderboard{number}"
        return
    seeds = len(best.by_seed(metric))
    text = f"{name(best)} has the highest {metric}, {mean:.4f} over {seeds} seed{'s' if seeds > 1 else ''}."
    yield text, "Leaderboard", f"leaderboard{number}"
    if len(group.configurations) > 1 and group.configurations[1].mean(metric) is not None:
        second = group.configurations[1]
        difference = metric_difference(second, best, group, metric)
        assert difference is not None
        yield (
            f"It exceeds the second, {name(second)}, by {interval_text(difference)}.",
            "Leaderboard",
            (f"leaderboard{number}"),
        )
    baseline = data.baseline(group)
    gain = metric_difference(baseline, best, group, metric)
    if baseline is not best and gain is not None:
        yield f"It exceeds the baseline {name(baseline)} by {interval_text(gain)}.", "Baseline", f"baseline{number}"
    goal = data.target(group, metric)
    if goal is not None:
        reached = f"exceeds the target {goal:g} by" if mean >= goal else f"is below the target {goal:g} by"
        yield f"Its {metric} {reached} {abs(mean - goal):.4f}.", "Distance to the target", "target"


def _effects(data: ReportData, group: ComparisonGroup, number: str) -> _Sentences:
    metric = data.options.metric
    effects = [e for e in data.effects(group, metric) if e.difference is not None]
    if not effects:
        return
    significant = [e for e in effects if e.difference is not None and e.difference.is_significant]
    baseline = data.baseline(group)
    strongest: dict[str, Effect] = {}
    for e in sorted(significant, key=lambda e: (e.reference is not baseline, -abs(_value(e)))):
        strongest.setdefault(e.key, e)
    for is_gain, verb in ((True, "raises"), (False, "lowers")):
        members = [e for e in strongest.values() if (_value(e) > 0) == is_gain]
        for e in members[:_NUM_EFFECTS]:
            assert e.difference is not None
            text = f"{e.key} from {e.reference_value} to {e.value} {verb} {metric} by {interval_text(e.difference)}"
            text += "." if e.reference is baseline else f", starting from {name(e.reference)}."
            yield text, "Effects of single keys", f"effects{number}"
    by_key: dict[str, list[Effect]] = defaultdict(list)
    for e in effects:
        by_key[e.key].append(e)
    unclear = [key for key, members in by_key.items() if not any(e in significant for e in members)]
    if unclear:
        text = f"No tested value of {list_names(unclear)} changes {metric} significantly."
        if group.noise(metric).std is None:
            text = f"The effects of {list_names(unclear)} are untested, because every configuration has one seed."
        yield text, "Effects of single keys", f"effects{number}"


def _categories(data: ReportData, group: ComparisonGroup, number: str) -> _Sentences:
    metric, best = data.options.metric, group.best
    values = {c: v for c in best.runs[0].per_category if (v := best.mean("per_category", c, metric)) is not None}
    if len(values) < 2:
        return
    ranked = sorted(values, key=lambda c: values[c])
    weakest = [f"{category} ({values[category]:.4f})" for category in ranked[: min(_NUM_CATEGORIES, len(ranked) // 2)]]
    noun = "category of the best configuration is" if len(weakest) == 1 else "categories of the best configuration are"
    text = f"The weakest {noun} {list_names(weakest)}; the strongest is "
    yield text + f"{ranked[-1]} ({values[ranked[-1]]:.4f}).", "Categories", f"benchmark{number}_{metric}"
    lowest = sum(
        ranked[0] == min(known, key=lambda category: known[category])
        for c in group.configurations
        if (known := {k: v for k in values if (v := c.mean("per_category", k, metric)) is not None})
    )
    if len(group.configurations) > 2:
        text = f"{ranked[0]} has the lowest {metric} in {lowest} of {len(group.configurations)} configurations."
        yield text, "Benchmark", f"benchmark{number}_{metric}"


def _decisions(data: ReportData, group: ComparisonGroup, number: str) -> _Sentences:
    recall, alarms = (group.best.mean("decisions", key) for key in ("recall", "false_alarm_rate"))
    if recall is not None and alarms is not None:
        text = (
            f"At its thresholds, the best configuration classifies {recall:.1%} of the defective and {alarms:.1%} of "
        )
        yield f"{text}the normal test images as defective.", "Decisions", f"decisions{number}"


def _continual(data: ReportData, group: ComparisonGroup, number: str) -> _Sentences:
    metric, best = data.options.metric, group.best
    accuracy, routed, oracle = best.mean("routing_accuracy"), best.mean(metric), best.mean("oracle", metric)
    if accuracy is not None:
        text = f"The router of the best configuration selects the right expert for {100 * accuracy:.1f} % of the images"
        if routed is not None and oracle is not None and abs(routed - oracle) >= 5e-5:
            text += f"; with the right expert for all, {metric} would change by {oracle - routed:+.4f}"
        yield f"{text}.", "Continual learning", f"continual{number}"
    forgetting = {c: v for c in group.configurations if (v := c.mean("forgetting", metric)) is not None}
    forgetful = [c for c, value in forgetting.items() if value >= 5e-5]
    if forgetting and not forgetful:
        yield (
            f"No configuration forgets: forgetting of {metric} is 0 in all.",
            "Continual learning",
            (f"continual{number}"),
        )
    elif forgetful:
        worst = max(forgetful, key=lambda c: forgetting[c])
        text = f"{len(forgetful)} of {len(forgetting)} configurations forget{'s' * (len(forgetful) == 1)}; "
        text += f"{name(worst)} most, by {forgetting[worst]:.4f} {metric}"
        by_image = worst.mean("forgetting", "image_auroc")
        text += f" and {by_image:.4f} image_auroc" if by_image is not None and metric != "image_auroc" else ""
        yield f"{text}.", "Continual learning", f"continual{number}"


def _cost(data: ReportData, group: ComparisonGroup, number: str) -> _Sentences:
    metric, best = data.options.metric, group.best
    seconds = best.mean("seconds", "training")
    if not seconds:
        return
    for c in group.configurations[1:]:
        other, difference = c.mean("seconds", "training"), metric_difference(best, c, group, metric)
        if other is None or difference is None or difference.is_significant or difference.verdict == "untested":
            continue
        if other > 0 and seconds / other >= _MUCH_FASTER:
            text = f"{name(c)} is not significantly worse ({interval_text(difference)}) and its training takes "
            yield f"{text}{other:.0f} s instead of {seconds:.0f} s.", "Cost", "cost"
            return


def _value(effect: Effect) -> float:
    return 0.0 if effect.difference is None else effect.difference.value
