"""Section on combined components: components added one by one, and pairs of components."""

import math
from collections import defaultdict
from itertools import combinations

from moleflow.report.comparison import ComparisonGroup, Configuration, format_value, is_off
from moleflow.report.document import ReportData, Section
from moleflow.report.sections.effects import metric_difference
from moleflow.report.statistics import t_test
from moleflow.report.tables import (
    Table,
    change_cell,
    configuration_href,
    difference_cell,
    id_cell,
    metric_cell,
    verdict_cell,
)


def synergy(data: ReportData) -> Section:
    """Return a chain of added components, and the interaction of each pair of components."""
    section = Section("synergy", "Synergy of components")
    metric = data.options.metric
    for i, group in enumerate(data.groups):
        steps = Table(
            f"synergy_steps{i + 1}", f"{group.dataset}: components added one by one",
            ("step", "added", "id", "configuration", metric, "difference", "verdict"),
            note="Each row differs from the previous one in a single key, which changes from off (0, none, false, "
            "null) to on.",
        )  # fmt: skip
        chain = longest_chain(group, metric)
        for number, (added, configuration) in enumerate(chain):
            difference = metric_difference(chain[number - 1][1], configuration, group, metric) if number else None
            steps.rows.append([
                number, added or "(start)", id_cell(configuration), configuration.label,
                metric_cell(configuration, metric), difference_cell(difference, configuration),
                verdict_cell(difference),
            ])  # fmt: skip
        section.blocks += [table for table in (steps, _pairs(group, metric, i)) if table.rows]
    return section


def longest_chain(group: ComparisonGroup, metric: str) -> list[tuple[str, Configuration]]:
    """Return the longest chain in which each configuration enables one more component.

    Args:
        group: The configurations.
        metric: Decides between chains of equal length, by the value of the last configuration.

    Returns:
        Enabled key (empty for the first) and configuration; an empty list without a chain of at least two.
    """
    extensions: dict[str, list[tuple[str, Configuration]]] = defaultdict(list)
    for single in group.single_key_groups:
        for (_, a), (_, b) in ((x, y) for x in single.members for y in single.members if x is not y):
            if is_off(a.settings.get(single.key, "")) and not is_off(b.settings.get(single.key, "")):
                extensions[a.id].append((single.key, b))
    memo: dict[str, list[tuple[str, Configuration]]] = {}

    def longest(start: Configuration) -> list[tuple[str, Configuration]]:
        if start.id not in memo:
            tails = [[(key, other), *longest(other)] for key, other in extensions[start.id]]
            memo[start.id] = max(tails, key=lambda tail: (len(tail), tail[-1][1].mean(metric) or 0.0), default=[])
        return memo[start.id]

    chains = [[("", c), *longest(c)] for c in group.configurations if c.mean(metric) is not None]
    chain = max(chains, key=lambda chain: (len(chain), chain[-1][1].mean(metric) or 0.0), default=[])
    return chain if len(chain) > 1 else []


def _pairs(group: ComparisonGroup, metric: str, i: int) -> Table:
    """Return all pairs of components for which neither, each alone, and both were run."""
    table = Table(
        f"synergy_pairs{i + 1}", f"{group.dataset}: pairs of components",
        ("A", "B", "neither", "A alone", "B alone", "both", "effect of A", "effect of B", "effect of both", "synergy",
         "verdict"),
        note="Synergy is the effect of both less the effects of each alone: above 0 the components amplify each other, "
        "below 0 their effects overlap.",
    )  # fmt: skip
    enabled: dict[str, dict[str, Configuration]] = defaultdict(dict)
    for single in group.single_key_groups:
        for _, a in single.members:
            for _, b in single.members:
                value = b.settings.get(single.key, "")
                if is_off(a.settings.get(single.key, "")) and not is_off(value):
                    enabled[a.id][f"{single.key}={format_value(b.settings.get(single.key))}"] = b
    noise = group.noise(metric)
    for neither in group.configurations:
        for first, second in combinations(sorted(enabled[neither.id]), 2):
            a, b = enabled[neither.id][first], enabled[neither.id][second]
            both = enabled[a.id].get(second)
            if both is None or enabled[b.id].get(first) is not both:
                continue
            corners = (neither, a, b, both)
            means = [mean for c in corners if (mean := c.mean(metric)) is not None]
            if len(means) < 4:
                continue
            effect_a, effect_b, effect_both = (mean - means[0] for mean in means[1:])
            value = means[3] - means[1] - means[2] + means[0]
            verdict = "untested"
            if noise.std is not None:
                error = noise.std * math.sqrt(sum(1 / len(c.by_seed(metric)) for c in corners))
                verdict = t_test(value, error, noise.degrees_of_freedom, "").verdict
            synergy_cell = change_cell(value, href=configuration_href(both), is_significant=verdict == "significant")
            table.rows.append(
                [first, second, *(metric_cell(c, metric) for c in corners)]
                + [effect_a, effect_b, effect_both, synergy_cell, verdict]
            )
    return table
