"""All that makes a number of the report doubtful: faults, odd runs, repeated seeds, differences that may be chance."""

from moleflow.overfit import first_overfit
from moleflow.report.configurations import Bench
from moleflow.report.content import Content, Options, Section
from moleflow.report.runs import Run, mapping, number
from moleflow.report.statistics import compare, seeds_needed
from moleflow.report.tables import Cell, Item, Table, name_cell, run_link


def warnings(content: Content) -> Section:
    """Return all that makes a number doubtful or is missing."""
    table = Table("warnings", "Warnings", ("kind", "where", "what"))
    for fault in content.faults:
        place = Cell(str(fault.folder), str(fault.folder), content.address(fault.folder))
        table.rows.append([fault.kind, place, fault.reason])
    for bench in content.benches:
        for configuration in bench.configurations:
            for run in configuration.runs:
                table.rows += [[kind, Cell(run.place, run.place, run_link(run)), what] for kind, what in doubts(run)]
            seeds = [run.seed for run in configuration.runs]
            for seed in sorted({seed for seed in seeds if seeds.count(seed) > 1}):
                what = f"{seeds.count(seed)} runs have seed {seed}; only the first counts."
                table.rows.append(["repeated seed", name_cell(configuration), what])
        table.rows += _unsettled(bench, content.options)
    return Section("warnings", "Warnings", [table])


def doubts(run: Run) -> list[tuple[str, str]]:
    """Return what is wrong with a run's tasks: kind and sentence."""
    found = []
    skipped = mapping(run.metrics.get("training")).get("skipped_steps")
    tasks = mapping(run.metrics.get("task_matrix")).get("tasks")
    for i, count in enumerate(skipped if isinstance(skipped, list) else []):
        if isinstance(count, int) and count:
            found.append(
                ("skipped steps", f"task {i + 1}: {count} optimizer steps were left out, their loss was not finite.")
            )
    epochs = None if "ensemble" in run.config else mapping(run.metrics.get("training")).get("epochs")
    if isinstance(epochs, list) and isinstance(tasks, list) and len(epochs) < len(tasks):
        found.append(("skipped task", f"{len(tasks) - len(epochs)} of {len(tasks)} tasks have no training on record."))
    for i, history in enumerate(epochs if isinstance(epochs, list) else []):
        if not history and run.trained:
            found.append(("skipped task", f"task {i + 1} was not trained for a single epoch."))
        elif overfit := first_overfit([mapping(epoch) for epoch in history or ()]):
            found.append(("overfit", f"task {i + 1}: {overfit}."))
    missing = [c for c, values in run.per_category.items() if number(values, "image_auroc") is None]
    if missing:
        found.append(("no metric", f"no image AUROC for {', '.join(missing)}: the test set lacks one class."))
    emptied = number(run.metrics, "masks", "emptied")
    if emptied:
        marked = number(run.metrics, "masks", "masks") or 0
        cut = f"{emptied:.0f} of {marked:.0f} marked defects lie where nothing is looked at"
        found.append(("unseen defects", f"{cut}, or are too small for the size; see view=full."))
    status = run.metrics.get("status")
    if status != "finished":
        found.append(("status", f"metrics.json says {status!r}, not finished."))
    return found


def _unsettled(bench: Bench, options: Options) -> list[list[Item]]:
    """Return a warning if the first place, or any effect shown, may be chance."""
    rows: list[list[Item]] = []
    metric = options.metric
    noise = bench.noise(metric)
    if len(bench.configurations) > 1 and noise.sd is None:
        rows.append(
            [
                "too few seeds",
                bench.dataset,
                "no configuration has two seeds: no difference can be told from noise. Add seed=0,1,2.",
            ]
        )
    if len(bench.configurations) > 1:
        first, second = bench.configurations[:2]
        if first.mean(metric) is not None and second.mean(metric) is not None:
            lead = compare(second.by_seed(metric), first.by_seed(metric), noise)
            if lead.verdict != "beyond the noise":
                more = ""
                if noise.sd and lead.value:
                    more = f" About {seeds_needed(lead.value, noise.sd)} seeds each would show such a difference."
                rows.append(
                    [
                        "first place open",
                        name_cell(first),
                        f"{first.name} leads {second.name} by {lead.value:.4f} {metric}: "
                        f"{lead.verdict} ({lead.how}).{more}",
                    ]
                )
    single = [c.name for c in bench.configurations if len(c.by_seed(metric)) == 1]
    if single and len(bench.configurations) > 1 and noise.sd is not None:
        rows.append(
            [
                "one seed",
                bench.dataset,
                f"{len(single)} of {len(bench.configurations)} configurations have one seed; their noise is borrowed: "
                f"{', '.join(single[:12])}{' …' if len(single) > 12 else ''}",
            ]
        )
    versions = {
        str(mapping(run.metrics.get("versions")).get(k))
        for c in bench.configurations
        for run in c.runs
        for k in ("moleflow",)
    }
    if len(versions) > 1:
        rows.append(
            ["versions", bench.dataset, f"runs of different versions are compared: {', '.join(sorted(versions))}."]
        )
    return rows
