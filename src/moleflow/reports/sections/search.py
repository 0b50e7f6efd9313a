"""Section on searches with Optuna: best trials and importance of the keys."""

from collections import Counter
from pathlib import Path

from moleflow.reports.document import ReportData, Section
from moleflow.reports.tables import Cell, Item, Table
from moleflow.runs.searches import SearchRecord, Trial

_MAX_TRIALS = 10  # of a search with one objective


def search(data: ReportData) -> Section:
    """Return the best trials of each search, and the share of each key in the differences between trials."""
    section = Section("search", "Search")
    for i, (runs, record) in enumerate(data.searches, 1):
        goals = [f"{key} ({direction})" for key, direction in zip(record.objectives, record.directions, strict=True)]
        counts = Counter(trial.state for trial in record.trials)
        states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        section.blocks += [
            f"{record.study}: {len(record.trials)} trials ({states}). Objective: {', '.join(goals)}. "
            f"Sampler: {record.sampler}; pruner: {record.pruner}.",
            _best_trials(data, runs, record, i),
            _importance(record, i),
        ]
    return section


def _best_trials(data: ReportData, runs: Path, record: SearchRecord, number: int) -> Table:
    """Return the Pareto front of several objectives, or the best trials by one objective."""
    single = len(record.objectives) == 1
    keys = list(dict.fromkeys(key for trial in record.trials for key in trial.params))
    trials = record.ranked[:_MAX_TRIALS] if single else record.best
    title = f"{'Best trials' if single else 'Pareto front'} of {record.study}"
    table = Table(f"search{number}", title, ("trial", *record.objectives, *keys, "run"))
    for trial in trials:
        values: list[Item] = [Cell(f"{value:.4f}", value) for value in trial.values]
        table.rows.append([trial.number, *values, *(trial.params.get(key) for key in keys), _run(data, runs, trial)])
    return table


def _run(data: ReportData, runs: Path, trial: Trial) -> Item:
    return Cell("folder", trial.folder, data.file_link(runs / trial.folder)) if trial.folder else None


def _importance(record: SearchRecord, number: int) -> Table:
    """Return the importance of each key, most important first by the first objective."""
    table = Table(
        f"importance{number}",
        f"Importance of the keys in {record.study}",
        ("key", "search space", *record.objectives),
        note="Share of each key in the difference between the best tenth of the trials and all trials (PED-ANOVA); the "
        "shares of an objective add up to 1. Trials that were ended early do not count.",
    )
    first = record.importance.get(record.objectives[0], {})
    for key in sorted(record.space, key=lambda key: first.get(key, 0.0), reverse=True):
        shares: list[Item] = [record.importance.get(objective, {}).get(key) for objective in record.objectives]
        table.rows.append([key, record.space[key], *shares])
    return table
