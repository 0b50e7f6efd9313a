"""What components do together: added one by one, and two of them against each alone."""

from collections import defaultdict
from itertools import combinations

from moleflow.report.configurations import Bench, Configuration, is_off, shown
from moleflow.report.content import Content, Section
from moleflow.report.effects import change_of, difference, verdict_cell
from moleflow.report.statistics import compare
from moleflow.report.tables import Table, change_cell, link, metric_cell, name_cell


def synergy(content: Content) -> Section:
    """Return components added one by one, and whether two of them do more together than apart."""
    section = Section("synergy", "Component synergy")
    for i, bench in enumerate(content.benches):
        metric = content.options.metric
        chain = ladder(bench, metric)
        steps = Table(
            f"synergy_steps{i + 1}", f"{bench.dataset}: components added one by one",
            ("step", "added", "name", "configuration", metric, "gain of this step", "verdict"),
            note="Each line differs from the one above in one key alone, which goes from off (0, none, "
            "false, null) to on.",
        )  # fmt: skip
        for number, (added, configuration) in enumerate(chain):
            change = difference(chain[number - 1][1], configuration, bench, metric) if number else None
            steps.rows.append(
                [
                    number,
                    added or "(start)",
                    name_cell(configuration),
                    configuration.label,
                    metric_cell(configuration, metric),
                ]
                + ([change_of(change, configuration), verdict_cell(change)] if change else [None, None])
            )
        pairs = _pairs(bench, metric, i)
        section.blocks += [table for table in (steps, pairs) if len(table.rows) > (table is steps)]
    return section


def ladder(bench: Bench, metric: str) -> list[tuple[str, Configuration]]:
    """Return the longest chain in which each configuration switches on one component more: added key, configuration."""
    upward: dict[str, list[tuple[str, Configuration]]] = defaultdict(list)
    for group in bench.groups:
        for (_, a), (_, b) in ((x, y) for x in group.members for y in group.members if x is not y):
            if is_off(a.settings.get(group.key, "")) and not is_off(b.settings.get(group.key, "")):
                upward[a.name].append((group.key, b))
    memo: dict[str, list[tuple[str, Configuration]]] = {}

    def longest(start: Configuration) -> list[tuple[str, Configuration]]:
        if start.name not in memo:
            tails = [[(key, other), *longest(other)] for key, other in upward[start.name]]
            memo[start.name] = max(tails, key=lambda tail: (len(tail), tail[-1][1].mean(metric) or 0.0), default=[])
        return memo[start.name]

    chains = [[("", c), *longest(c)] for c in bench.configurations if c.mean(metric) is not None]
    best = max(chains, key=lambda chain: (len(chain), chain[-1][1].mean(metric) or 0.0), default=[])
    return best if len(best) > 1 else []


def _pairs(bench: Bench, metric: str, i: int) -> Table:
    """Return every square neither, A, B, both of two components."""
    table = Table(
        f"synergy_pairs{i + 1}", "Two components together and apart",
        ("A", "B", "neither", "A alone", "B alone", "both", "gain A", "gain B", "gain both", "synergy", "verdict"),
        note="Synergy is the gain of both less the gains of each alone: above 0 they help each "
        "other, below 0 they do the "
        "same work twice.",
    )  # fmt: skip
    on: dict[str, dict[str, Configuration]] = defaultdict(dict)
    for group in bench.groups:
        off = [c for _, c in group.members if is_off(c.settings.get(group.key, ""))]
        for a in off:
            for _, b in group.members:
                if not is_off(b.settings.get(group.key, "")):
                    on[a.name][f"{group.key}={shown(b.settings.get(group.key))}"] = b
    for neither in bench.configurations:
        for first, second in combinations(sorted(on[neither.name]), 2):
            a, b = on[neither.name][first], on[neither.name][second]
            both = on[a.name].get(second)
            if both is None or on[b.name].get(first) is not both:
                continue
            corners = [c.mean(metric) for c in (neither, a, b, both)]
            if any(value is None for value in corners):
                continue
            zero, one, two, three = (float(value or 0.0) for value in corners)
            value, sure = three - one - two + zero, ""
            noise = bench.noise(metric)
            if noise.sd is not None:
                spread = compare(
                    {0: 0.0},
                    {0: value},
                    type(noise)(noise.sd * _square_error(neither, a, b, both, metric), noise.freedom),
                )
                sure = spread.verdict
            table.rows.append(
                [
                    first,
                    second,
                    *(metric_cell(c, metric) for c in (neither, a, b, both)),
                    one - zero,
                    two - zero,
                    three - zero,
                ]
                + [change_cell(value, href=link(both), sure=sure == "beyond the noise"), sure or "noise unknown"]
            )
    return table


def _square_error(*args: Configuration | str) -> float:
    """Return the factor on a seed's sd that gives the error of a square, for :func:`compare` of one seed a side."""
    *corners, metric = args
    share = sum(1 / len(c.by_seed(str(metric))) for c in corners if isinstance(c, Configuration))
    return float((share / 2) ** 0.5)
