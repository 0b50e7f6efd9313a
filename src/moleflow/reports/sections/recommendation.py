"""Section on the recommended configuration, from measured effects, with commands and expected ranges."""

import math
from collections.abc import Sequence
from dataclasses import replace

from moleflow.reports.comparison import ComparisonGroup, format_value, is_component
from moleflow.reports.document import ReportData, Section
from moleflow.reports.sections.suggestions import command, is_relevant
from moleflow.reports.single_key import Effect
from moleflow.reports.statistics import prediction_interval
from moleflow.reports.tables import Cell, Table, id_cell, range_text


def recommendation(data: ReportData) -> Section:
    """Return the best configuration, and its combination with improvements that were measured in others."""
    section = Section(
        "recommendation", "Recommendation", question="Which configuration should be run next, and what will it reach?",
        absence="no configuration has the metric",
    )  # fmt: skip
    metric = data.options.metric
    for i, group in enumerate(data.groups):
        best = next((c for c in group.configurations if not c.runs[0].is_ensemble), None)
        mean = None if best is None else best.mean(metric)
        if best is None or mean is None:
            continue
        table = Table(
            f"recommendation{i + 1}", f"{group.dataset}: recommended configurations",
            ("configuration", "evidence", f"expected {metric}", "command"),
            note="Expected is the 95 % interval of one more seed; of a combination, it adds the measured effects and "
            "assumes that they are independent of the other keys. Run the commands in the folder in which the runs "
            "were started.",
        )  # fmt: skip
        width = prediction_interval(best.by_seed(metric).values(), group.noise(metric))
        table.rows.append([
            f"the best one: {best.label}", id_cell(best), Cell(range_text(mean, width), mean),
            Cell(command(best, {}), command(best, {}), emphasis="code"),
        ])  # fmt: skip
        gains = improvements(data, group)
        combinations = [[gain] for gain in gains] + ([gains] if len(gains) > 1 else [])
        for combination in combinations:
            expected, interval = _sum(mean, width, combination)
            text = command(best, {gain.key: gain.value for gain in combination})
            table.rows.append([
                "the best one with " + ", ".join(f"{gain.key}={gain.value}" for gain in combination),
                Cell("; ".join(_evidence(gain) for gain in combination), href=f"#table-effects{i + 1}"),
                Cell(range_text(expected, interval), expected), Cell(text, text, emphasis="code"),
            ])  # fmt: skip
        if not gains:
            table.note += " No other significant improvement of a single key remains to be combined with the best one."
        section.blocks.append(table)
    return section


def improvements(data: ReportData, group: ComparisonGroup) -> list[Effect]:
    """Return the significant improvement of each key that the best configuration lacks, largest first.

    An improvement applies if it starts at the best configuration's value and its combination with the best one has not
    been run.
    """
    best = next(c for c in group.configurations if not c.runs[0].is_ensemble)
    tested = {(neighbor.key, neighbor.value) for neighbor in group.neighbors(best)}
    found: dict[str, Effect] = {}
    effects = data.effects(group, data.options.metric)
    for effect in (*effects, *map(reverse, effects)):
        key, difference = effect.key, effect.difference
        if difference is None or not difference.is_significant or is_component(best.settings, key):
            continue
        current = format_value(best.settings.get(key))
        applies = key in best.settings and current == effect.reference_value and (key, effect.value) not in tested
        is_larger = key not in found or difference.value > _value(found[key])
        if applies and difference.value > 0 and is_larger and is_relevant(best, key):
            found[key] = effect
    return sorted(found.values(), key=lambda effect: -_value(effect))


def reverse(effect: Effect) -> Effect:
    """Return the effect of the opposite change."""
    difference = effect.difference
    return replace(
        effect,
        reference_value=effect.value,
        value=effect.reference_value,
        reference=effect.configuration,
        configuration=effect.reference,
        difference=None if difference is None else replace(difference, value=-difference.value),
    )


def _value(effect: Effect) -> float:
    return 0.0 if effect.difference is None else effect.difference.value


def _evidence(effect: Effect) -> str:
    return f"{effect.key} from {effect.reference_value} to {effect.value}: {_value(effect):+.4f}"


def _sum(mean: float, width: float | None, effects: Sequence[Effect]) -> tuple[float, float | None]:
    """Return the expected metric and the half width of its interval, from independent effects."""
    widths = [width, *(None if e.difference is None else e.difference.interval for e in effects)]
    known = [w for w in widths if w is not None]
    interval = math.sqrt(sum(w**2 for w in known)) if len(known) == len(widths) else None
    return min(1.0, mean + sum(map(_value, effects))), interval
