"""Section on categories: two configurations compared, those below the mean, and the chosen augmentations."""

from moleflow.reports.comparison import ComparisonGroup, Configuration
from moleflow.reports.document import ReportData, Section, find_configuration
from moleflow.reports.tables import Cell, Table, change_cell, configuration_href, id_cell, metric_cell, run_href
from moleflow.runs.reader import as_mapping, finite_number
from moleflow.utils.text import one_line

_NUM_BOTTLENECKS = 5
_AUGMENTATIONS = ("flips", "rotations", "all")


def per_category(data: ReportData) -> Section:
    """Return the differences between two configurations per category; the page can compare any two."""
    section = Section(
        "categories", "Categories", question="In which categories do two configurations differ, and which are weakest?"
    )
    metric = data.options.metric
    for i, group in enumerate(data.groups):
        left, right = compared_configurations(data, group)
        table = Table(
            f"categories{i + 1}", f"{group.dataset}: {right.id} compared with {left.id}",
            ("category", f"{metric} {left.id}", f"{metric} {right.id}", "difference",
             f"image_auroc {left.id}", f"image_auroc {right.id}", "image_auroc difference", "training images"),
            note=f"{left.id}: {left.label}. {right.id}: {right.label}.",
        )  # fmt: skip
        for category in sorted({c for run in right.runs for c in run.categories}):
            row: list[object] = [category]
            for name in (metric, "image_auroc"):
                a, b = (side.mean("per_category", category, name) for side in (left, right))
                row += [metric_cell(side, "per_category", category, name) for side in (left, right)]
                row.append(change_cell(None if a is None or b is None else b - a, href=configuration_href(right)))
            count = right.mean("per_category", category, "train_pictures")
            table.rows.append([*row, None if count is None else int(count)])
        if left is right:  # a single configuration
            table.title, table.note = f"{group.dataset}: {right.id}", f"{right.label}."
            table.columns = ("category", metric, "image_auroc", "training images")
            table.rows = [[row[0], row[2], row[5], row[7]] for row in table.rows]
        else:
            section.widget = "compare"
        section.blocks += [table, _bottlenecks(group, metric, i), *_augmentations(group, i)]
    return section


def compared_configurations(data: ReportData, group: ComparisonGroup) -> tuple[Configuration, Configuration]:
    """Return the two configurations to compare: those of ``--compare``, else baseline and best, or second and best."""
    selected = [c for name in data.options.compare if (c := find_configuration(group, name)) is not None]
    if len(selected) == 2:
        return selected[0], selected[1]
    baseline = data.baseline(group)
    if baseline is group.best and len(group.configurations) > 1:
        baseline = group.configurations[1]
    return baseline, group.best


def _bottlenecks(group: ComparisonGroup, metric: str, i: int) -> Table:
    """Return the categories in which the best configuration is below its mean."""
    best = group.best
    table = Table(
        f"bottlenecks{i + 1}", f"{group.dataset}: categories of {best.id} below its mean",
        ("category", metric, "difference from the mean", "mean of the other categories",
         "best of all configurations", "id"),
        note=f"The {_NUM_BOTTLENECKS} lowest categories below the mean, and the configuration with the highest value "
        "in each.",
    )  # fmt: skip
    values = {c: v for c in best.runs[0].categories if (v := best.mean("per_category", c, metric)) is not None}
    mean = sum(values.values()) / max(1, len(values))
    below = [category for category, value in values.items() if value < mean - 1e-12]  # ignores rounding errors
    for category in sorted(below, key=lambda c: values[c])[:_NUM_BOTTLENECKS]:
        others = [value for name, value in values.items() if name != category]
        top = max(group.configurations, key=lambda c: c.mean("per_category", category, metric) or 0.0)
        table.rows.append([
            category, metric_cell(best, "per_category", category, metric),
            change_cell(values[category] - mean, href=configuration_href(best)),
            sum(others) / len(others) if others else None,
            metric_cell(top, "per_category", category, metric), id_cell(top),
        ])  # fmt: skip
    return table


def _augmentations(group: ComparisonGroup, i: int) -> list[Table]:
    """Return the augmentations that ``augmentation=auto`` chose in the runs of the best configuration."""
    table = Table(
        f"augmentations{i + 1}", f"{group.dataset}: augmentations of {group.best.id}",
        ("category", "run", "augmentation", "training images", "compared images",
         *(f"{key} {name}" for name in _AUGMENTATIONS for key in ("AUROC", "reduction"))),
        note="Chosen from the training images by augmentation=auto. AUROC: between transformed and unaugmented "
        "training images, near 0.5 if the transforms occur in the product and near 1 if not. Reduction: share by which "
        "the transformed images lower the scores of new images.",
    )  # fmt: skip
    for run in group.best.runs:
        choices = as_mapping(run.metrics.get("augmentations"))
        for category, values in sorted(run.per_category.items()):
            choice = as_mapping(choices.get(str(values.get("expert", category))))
            counts = (finite_number(choice, key) for key in ("training_images", "compared_images"))
            if choice:
                table.rows.append([
                    category, Cell(run.run_id, run.run_id, run_href(run)),
                    one_line(str(choice.get("augmentation")), 20),
                    *(None if count is None else int(count) for count in counts),
                    *(_evidence_cell(choice, key, name) for name in _AUGMENTATIONS for key in ("auroc", "reduction")),
                ])  # fmt: skip
    return [table] if table.rows else []


def _evidence_cell(choice: dict[str, object], key: str, augmentation: str) -> Cell | None:
    """Return a value by which an augmentation was chosen; None if it is not recorded."""
    value = finite_number(choice, key, augmentation)
    return None if value is None else Cell(f"{value:.2f}", value)
