"""What single keys do: ablations, effects, backbones."""

from collections import defaultdict

from moleflow.report.configurations import Bench, Configuration, Group, differing_keys, part_name
from moleflow.report.content import Content, Section
from moleflow.report.plots import Plot, effect
from moleflow.report.statistics import Difference, compare
from moleflow.report.tables import Cell, Table, change_cell, link, metric_cell, name_cell

_SHOWN = ("pixel_ap", "image_auroc")
_LINES = 6  # groups in one plot; more cannot be told apart


def ablations(content: Content) -> Section:
    """Return what changes when one key of the baseline changes."""
    section = Section("ablation", "Ablation")
    for i, bench in enumerate(content.benches):
        metric, base = content.options.metric, content.baseline(bench)
        table = Table(
            f"ablation{i + 1}",
            f"{bench.dataset}: one key away from {base.name} ({base.label})",
            ("changed key", "baseline", "here", "name", "configuration", "seeds", metric, "impact",
             "verdict", "by", "image_auroc impact"),
            note="Only configurations that differ from the baseline in this one key. ± is the 95 % interval.",
        )  # fmt: skip
        for key, here, there, other in bench.neighbours(base):
            change = difference(base, other, bench, metric)
            if change is None:
                continue
            image = difference(base, other, bench, "image_auroc")
            table.rows.append(
                [
                    key,
                    here,
                    there,
                    name_cell(other),
                    other.label,
                    len(other.by_seed(metric)),
                    metric_cell(other, metric),
                ]
                + [
                    change_of(change, other),
                    verdict_cell(change),
                    change.how,
                    change_of(image, other) if image else None,
                ]
            )
        table.rows.sort(key=lambda row: getattr(row[7], "value", 0.0))
        named = _named_ablations(bench, base, metric, i)
        section.blocks += [block for block in (table, named) if block.rows]
    return section


def _named_ablations(bench: Bench, base: Configuration, metric: str, i: int) -> Table:
    """Return ablations by name that change several keys at once: shown, but not as the effect of one."""
    table = Table(
        f"ablation_several{i + 1}",
        "Named ablations that change several keys",
        ("ablation", "name", metric, "all changes together", "verdict", "keys"),
        note="The change belongs to all of the keys together; none of them can be credited with it.",
    )
    for other in bench.configurations:
        names = [o.split("=", 1)[1] for o in other.runs[0].overrides if o.lstrip("+~").startswith("ablation=")]
        keys = differing_keys(base, other)
        change = difference(base, other, bench, metric)
        if names and len(keys) > 1 and change is not None:
            table.rows.append(
                [
                    names[0],
                    name_cell(other),
                    metric_cell(other, metric),
                    change_of(change, other),
                    verdict_cell(change),
                    ", ".join(keys),
                ]
            )
    return table


def effects(content: Content) -> Section:
    """Return each key's effect wherever configurations differ in it alone."""
    section = Section("effects", "Effects of single keys")
    for i, bench in enumerate(content.benches):
        base = content.baseline(bench)
        by_key: dict[str, list[Group]] = defaultdict(list)
        for group in bench.groups:
            by_key[group.key].append(group)
        table = Table(
            f"effects{i + 1}",
            f"{bench.dataset}: all groups that differ in one key",
            ("key", "group", "value", "name", "seeds", *_SHOWN,
             f"{content.options.metric} against reference", "verdict", "by"),
            note="A group holds configurations that are equal in every other key. Its reference is the "
            "baseline where the "
            "baseline is in it, else its first value.",
        )  # fmt: skip
        plots: list[Plot] = []
        for key in sorted(by_key, key=lambda key: -_largest(by_key[key], bench, content.options.metric)):
            groups = sorted(by_key[key], key=lambda g: (all(c is not base for _, c in g.members), -len(g.members)))
            for number, group in enumerate(groups, 1):
                _effect_rows(table, group, f"{key} #{number}", base, bench, content.options.metric)
            plots += [_plot(key, groups, metric, bench.dataset) for metric in _SHOWN if _plottable(groups, metric)]
        if table.rows:
            section.blocks += [table, *plots[:40]]
    return section


def _effect_rows(table: Table, group: Group, title: str, base: Configuration, bench: Bench, metric: str) -> None:
    reference = next((c for _, c in group.members if c is base), group.members[0][1])
    for value, member in group.members:
        change = None if member is reference else difference(reference, member, bench, metric)
        table.rows.append(
            [group.key, title, value, name_cell(member), len(member.by_seed(metric))]
            + [metric_cell(member, shown_metric) for shown_metric in _SHOWN]
            + (
                ["(reference)", "", ""]
                if change is None
                else [change_of(change, member), verdict_cell(change), change.how]
            )
        )


def _plottable(groups: list[Group], metric: str) -> bool:
    return any(sum(c.mean(metric) is not None for _, c in group.members) > 1 for group in groups)


def _plot(key: str, groups: list[Group], metric: str, dataset: str) -> Plot:
    lines = []
    for number, group in enumerate(groups[:_LINES], 1):
        points = [(value, mean, c.sd(metric)) for value, c in group.members if (mean := c.mean(metric)) is not None]
        lines.append((f"#{number}", points))
    plot = effect(key, lines, metric)
    numbers = " Numbers are those of the groups in the table." if len(lines) > 1 else ""
    more = "" if len(groups) <= _LINES else f" {len(groups) - _LINES} smaller groups are in the table."
    return Plot(f"{plot.title} ({dataset})", plot.uri, f"Bars: sd over seeds.{numbers}{more}")


def backbones(content: Content) -> Section:
    """Return the best configuration of each backbone, and what else differs between them."""
    section = Section("backbones", "Backbones")
    for i, bench in enumerate(content.benches):
        best: dict[str, Configuration] = {}
        for c in bench.configurations:
            best.setdefault(part_name(c.settings, "backbone"), c)
        if len(best) < 2:
            continue
        reference = bench.best
        table = Table(
            f"backbones{i + 1}", f"{bench.dataset}: the best of each backbone",
            ("backbone", "name", "configuration", "image_auroc", "pixel_ap", "backbone parameters",
             "else differs from the first in"),
            note="Where other keys differ too, the difference is not the backbone's effect; that one is under Effects.",
        )  # fmt: skip
        for backbone, c in best.items():
            other = [
                key for key in differing_keys(reference, c) if key != "backbone" and not key.startswith("backbone.")
            ]
            table.rows.append(
                [backbone, name_cell(c), c.label, metric_cell(c, "image_auroc"), metric_cell(c, "pixel_ap")]
                + [
                    Cell(f"{count:,.0f}".replace(",", " "), count, link(c))
                    if (count := c.mean("parameters", "backbone"))
                    else None
                ]
                + [", ".join(other) or "nothing"]
            )
        section.blocks.append(table)
    return section


def difference(a: Configuration, b: Configuration, bench: Bench, metric: str) -> Difference | None:
    """Return how ``b`` differs from ``a`` in a metric, or None where one of them has no value."""
    left, right = a.by_seed(metric), b.by_seed(metric)
    return compare(left, right, bench.noise(metric)) if left and right else None


def verdict_cell(change: Difference) -> Cell:
    """Return a verdict; what is inside the noise is called so."""
    return Cell(
        change.verdict, change.verdict, tone="" if change.verdict in ("beyond the noise", "identical") else "unsure"
    )


def change_of(change: Difference, of: Configuration) -> Cell:
    """Return a change with its interval, linked to the configuration that has it."""
    return change_cell(change.value, change.interval, link(of), change.verdict == "beyond the noise")


def _largest(groups: list[Group], bench: Bench, metric: str) -> float:
    spreads = []
    for group in groups:
        values = [mean for _, c in group.members if (mean := c.mean(metric)) is not None]
        spreads.append(max(values) - min(values) if values else 0.0)
    return max(spreads)
