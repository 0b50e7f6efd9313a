"""Section of warnings: run folders without results, irregular runs, repeated seeds, differences that may be chance."""

from moleflow.reports.comparison import ComparisonGroup
from moleflow.reports.document import ReportData, ReportOptions, Section
from moleflow.reports.statistics import compare, seeds_needed
from moleflow.reports.tables import Cell, Item, Table, id_cell, run_href
from moleflow.runs.overfitting import first_overfitting
from moleflow.runs.reader import Run, as_mapping, finite_number
from moleflow.utils.errors import list_names

_MAX_IDS = 12  # in one message


def warnings(data: ReportData) -> Section:
    """Return all warnings on run folders, runs and comparisons."""
    table = Table("warnings", "Warnings", ("kind", "where", "description"), warning_rows(data))
    return Section("warnings", "Warnings", [table])


def warning_rows(data: ReportData) -> list[list[Item]]:
    """Return kind, place and description of all warnings."""
    rows: list[list[Item]] = []
    for fault in data.faults:
        folder = Cell(str(fault.folder), str(fault.folder), data.file_link(fault.folder))
        rows.append([fault.kind, folder, fault.reason])
    for group in data.groups:
        for configuration in group.configurations:
            for run in configuration.runs:
                where = Cell(run.run_id, run.run_id, run_href(run))
                rows += [[kind, where, description] for kind, description in run_warnings(run)]
            seeds = [run.seed for run in configuration.runs]
            for seed in sorted({seed for seed in seeds if seeds.count(seed) > 1}):
                description = f"{seeds.count(seed)} runs have seed {seed}; only the first one is used."
                rows.append(["repeated seed", id_cell(configuration), description])
        rows += _comparison_warnings(group, data.options)
    return rows


def run_warnings(run: Run) -> list[tuple[str, str]]:
    """Return the warnings on a run: kind and description."""
    warnings = []
    training = as_mapping(run.metrics.get("training"))
    skipped = training.get("skipped_steps")
    for i, count in enumerate(skipped if isinstance(skipped, list) else []):
        if isinstance(count, int) and count:
            description = f"Task {i + 1}: {count} optimizer steps with a non-finite loss were skipped."
            warnings.append(("skipped steps", description))
    tasks = as_mapping(run.metrics.get("task_matrix")).get("tasks")
    epochs = None if run.is_ensemble else training.get("epochs")
    if isinstance(epochs, list) and isinstance(tasks, list) and len(epochs) < len(tasks):
        warnings.append(("skipped task", f"{len(tasks) - len(epochs)} of {len(tasks)} tasks have no training record."))
    for i, history in enumerate(epochs if isinstance(epochs, list) else []):
        if not history and run.is_trained:
            warnings.append(("skipped task", f"Task {i + 1} was not trained for a single epoch."))
        elif overfitting := first_overfitting([as_mapping(epoch) for epoch in history or ()]):
            warnings.append(("overfitting", f"Task {i + 1}: {overfitting}."))
    missing = [c for c, metrics in run.per_category.items() if finite_number(metrics, "image_auroc") is None]
    if missing:
        description = f"{list_names(missing)}: no image AUROC, because the test set has only one class."
        warnings.append(("missing metric", description))
    emptied = finite_number(run.metrics, "masks", "emptied")
    if emptied:
        total = finite_number(run.metrics, "masks", "masks") or 0
        description = (
            f"{emptied:.0f} of {total:.0f} defect masks are empty in the model's view: the defects are outside the "
            "crop or too small for the image size. With view=full the whole images are used."
        )
        warnings.append(("invisible defects", description))
    return warnings


def _comparison_warnings(group: ComparisonGroup, options: ReportOptions) -> list[list[Item]]:
    """Return the warnings on the comparability of a group's configurations."""
    rows: list[list[Item]] = []
    metric = options.metric
    noise = group.noise(metric)
    if len(group.configurations) > 1 and noise.std is None:
        description = "No configuration has two seeds, so no difference can be tested. Run several seeds: seed=0,1,2."
        rows.append(["too few seeds", group.dataset, description])
    if len(group.configurations) > 1:
        first, second = group.configurations[:2]
        if first.mean(metric) is not None and second.mean(metric) is not None:
            lead = compare(second.by_seed(metric), first.by_seed(metric), noise)
            if not lead.is_significant:
                description = (
                    f"{first.label} ({first.id}) exceeds {second.label} ({second.id}) by {lead.value:.4f} {metric}: "
                    f"{lead.verdict} ({lead.test})."
                )
                if noise.std and lead.value:
                    seeds = seeds_needed(lead.value, noise.std)
                    description += f" About {seeds} seeds of each are needed to detect such a difference."
                rows.append(["best not significant", id_cell(first), description])
    single = [c.id for c in group.configurations if len(c.by_seed(metric)) == 1]
    if single and len(group.configurations) > 1 and noise.std is not None:
        description = (
            f"{len(single)} of {len(group.configurations)} configurations have one seed and are tested with the "
            f"standard deviation of the others: {', '.join(single[:_MAX_IDS])}{' …' if len(single) > _MAX_IDS else ''}"
        )
        rows.append(["one seed", group.dataset, description])
    versions = {
        str(as_mapping(run.metrics.get("versions")).get("moleflow")) for c in group.configurations for run in c.runs
    }
    if len(versions) > 1:
        description = f"The runs are of different versions of moleflow: {', '.join(sorted(versions))}."
        rows.append(["versions", group.dataset, description])
    return rows
