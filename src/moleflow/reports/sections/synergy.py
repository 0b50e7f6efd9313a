"""Section on combined components: components added one by one, and pairs of components."""

import math
from collections import defaultdict
from itertools import combinations, pairwise

from moleflow.reports.comparison import ComparisonGroup, Configuration, format_value, is_off
from moleflow.reports.document import ReportData, Section
from moleflow.reports.single_key import metric_difference
from moleflow.reports.statistics import Difference, holm, t_test
from moleflow.reports.tables import (
    Table,
    difference_cell,
    id_cell,
    metric_cell,
    p_cell,
    verdict_cell,
)


def synergy(data: ReportData) -> Section:
    """Return a chain of added components, and the interaction of each pair of components."""
    section = Section(
        "synergy", "Synergy of components", question="Do components amplify each other?",
        absence="no configurations add components one by one or combine two of them",
    )  # fmt: skip
    metric = data.options.metric
    for i, group in enumerate(data.groups):
        steps = Table(
            f"synergy_steps{i + 1}", f"{group.dataset}: components added one by one",
            ("step", "added", "id", "configuration", metric, "difference", "verdict", "p (Holm)"),
            note="Each row differs from the previous one in a single key, which changes from off (0, none, false, "
            "null) to on. Verdicts are adjusted by Holm's method for the number of steps.",
        )  # fmt: skip
        chain = longest_chain(group, metric)
        members = [configuration for _, configuration in chain]
        pairs = pairwise(members)
        tested = holm([d for a, b in pairs if (d := metric_difference(a, b, group, metric)) is not None])
        differences = [None, *tested] if chain else []
        for number, ((added, c), difference) in enumerate(zip(chain, differences, strict=True)):
            steps.rows.append([
                number, added or "(start)", id_cell(c), c.label, metric_cell(c, metric),
                difference_cell(difference, c), verdict_cell(difference), p_cell(difference),
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
    members = [c for c in group.configurations if c.mean(metric) is not None]
    extensions: dict[str, list[tuple[str, Configuration]]] = defaultdict(list)
    for single in group.single_key_groups:
        for (_, a), (_, b) in ((x, y) for x in single.members for y in single.members if x is not y):
            if is_off(a.settings.get(single.key, "")) and not is_off(b.settings.get(single.key, "")):
                extensions[a.id].append((single.key, b))
    extensions = {c.id: [pair for pair in extensions[c.id] if pair[1].mean(metric) is not None] for c in members}
    longest: dict[str, list[tuple[str, Configuration]]] = {}
    # Each extension enables components, so the configurations with the most are the ends of all chains.
    for c in sorted(members, key=lambda c: -sum(not is_off(value) for value in c.settings.values())):
        tails = [[(key, other), *longest.get(other.id, [])] for key, other in extensions[c.id]]
        longest[c.id] = max(tails, key=lambda tail: (len(tail), tail[-1][1].mean(metric) or 0.0), default=[])
    chains = [[("", c), *longest[c.id]] for c in members]
    chain = max(chains, key=lambda chain: (len(chain), chain[-1][1].mean(metric) or 0.0), default=[])
    return chain if len(chain) > 1 else []


def _pairs(group: ComparisonGroup, metric: str, i: int) -> Table:
    """Return all pairs of components for which neither, each alone, and both were run."""
    table = Table(
        f"synergy_pairs{i + 1}", f"{group.dataset}: pairs of components",
        ("A", "B", "neither", "A alone", "B alone", "both", "effect of A", "effect of B", "effect of both", "synergy",
         "verdict", "p (Holm)"),
        note="Synergy is the effect of both less the effects of each alone: above 0 the components amplify each other, "
        "below 0 their effects overlap. Verdicts are adjusted by Holm's method for the number of pairs.",
    )  # fmt: skip
    enabled: dict[str, dict[str, Configuration]] = defaultdict(dict)
    for single in group.single_key_groups:
        for _, a in single.members:
            for _, b in single.members:
                value = b.settings.get(single.key, "")
                if is_off(a.settings.get(single.key, "")) and not is_off(value):
                    enabled[a.id][f"{single.key}={format_value(b.settings.get(single.key))}"] = b
    noise = group.noise(metric)
    rows: list[tuple[list[object], Configuration, Difference]] = []
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
            value = means[3] - means[1] - means[2] + means[0]
            difference = Difference(value, None, "untested", "")
            if noise.std is not None:
                error = noise.std * math.sqrt(sum(1 / len(c.by_seed(metric)) for c in corners))
                difference = t_test(value, error, noise.degrees_of_freedom, "")
            cells: list[object] = [first, second, *(metric_cell(c, metric) for c in corners)]
            rows.append((cells + [mean - means[0] for mean in means[1:]], both, difference))
    for (cells, both, _), difference in zip(rows, holm([row[2] for row in rows]), strict=True):
        table.rows.append(
            [*cells, difference_cell(difference, both), verdict_cell(difference), p_cell(difference)]
        )  # fmt: skip
    return table
