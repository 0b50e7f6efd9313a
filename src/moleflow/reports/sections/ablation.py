"""Section on the ablations of the baseline."""

from moleflow.reports.comparison import ComparisonGroup, Configuration, differing_keys
from moleflow.reports.document import ReportData, Section
from moleflow.reports.single_key import FAMILY_NOTE, metric_difference
from moleflow.reports.statistics import holm
from moleflow.reports.tables import Table, difference_cell, id_cell, metric_cell, p_cell, verdict_cell
from moleflow.utils.errors import list_names


def ablation(data: ReportData) -> Section:
    """Return the effect of changing one key of the baseline."""
    section = Section(
        "ablation", "Ablation", question="What does each change of the baseline cost or gain?",
        absence="no configuration differs from a baseline in a single key",
    )  # fmt: skip
    metric = data.options.metric
    for i, group in enumerate(data.groups):
        baseline = data.baseline(group)
        table = Table(
            f"ablation{i + 1}",
            f"{group.dataset}: one key changed from the baseline {baseline.id} ({baseline.label})",
            ("key", "baseline", "value", "id", "seeds", metric, "difference",
             "verdict", "p (Holm)", "test", "image_auroc difference"),
            note=f"Configurations that differ from the baseline in this key only. {FAMILY_NOTE}",
        )  # fmt: skip
        image_differences = {(e.key, e.configuration.id): e.difference for e in data.effects(group, "image_auroc")}
        effects = [e for e in data.effects(group, metric) if e.reference is baseline and e.difference is not None]
        for e in sorted(effects, key=lambda e: e.difference.value if e.difference else 0.0):
            c, difference = e.configuration, e.difference
            table.rows.append([
                e.key, e.reference_value, e.value, id_cell(c), len(c.by_seed(metric)), metric_cell(c, metric),
                difference_cell(difference, c), verdict_cell(difference), p_cell(difference),
                difference.test if difference else "", difference_cell(image_differences.get((e.key, c.id)), c),
            ])  # fmt: skip
        named = _named_ablations(group, baseline, metric, i)
        section.blocks += [block for block in (table, named) if block.rows]
    return section


def _named_ablations(group: ComparisonGroup, baseline: Configuration, metric: str, i: int) -> Table:
    """Return the runs with ``ablation=`` that differ from the baseline in several keys."""
    table = Table(
        f"ablation_several{i + 1}",
        f"{group.dataset}: named ablations that change several keys",
        ("ablation", "id", metric, "difference", "verdict", "p (Holm)", "keys"),
        note="The difference is the joint effect of all listed keys. These tests are a family of their own.",
    )
    members = []
    for other in group.configurations:
        names = [o.split("=", 1)[1] for o in other.runs[0].overrides if o.lstrip("+~").startswith("ablation=")]
        keys = differing_keys(baseline, other)
        difference = metric_difference(baseline, other, group, metric)
        if names and len(keys) > 1 and difference is not None:
            members.append((names[0], other, keys, difference))
    for (name, other, keys, _), difference in zip(members, holm([m[3] for m in members]), strict=True):
        table.rows.append([
            name, id_cell(other), metric_cell(other, metric), difference_cell(difference, other),
            verdict_cell(difference), p_cell(difference), list_names(keys),
        ])  # fmt: skip
    return table
