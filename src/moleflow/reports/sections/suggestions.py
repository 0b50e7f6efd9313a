"""Section on next runs: configurations that differ from the best ones in one key and were not run."""

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping

from moleflow.reports.comparison import ComparisonGroup, Configuration, format_value, is_component
from moleflow.reports.document import ReportData, Section
from moleflow.reports.tables import Cell, Table, id_cell
from moleflow.runs.identity import matches_any
from moleflow.runs.naming import override_key

_NUM_BEST = 3
_TRAINING_KEYS = ("epochs", "batch_size", "loss", "optimizer", "trainer", "continual")
_DEPENDENT_KEYS = {
    "scoring.top_k": ("scoring.aggregation", "top_k"),
    "scoring.top_k_percent": ("scoring.aggregation", "top_k_percent"),
    "scoring.percentile": ("scoring.aggregation", "percentile"),
    "model.adapter_start": ("model.adapter", "affine_norm"),
    "model.adapter_rank": ("model.adapter", "closed_form_whitening"),
    "model.adapter_shrinkage": ("model.adapter", "closed_form_whitening"),
    "model.spatial_context_strength": ("model.spatial_context_mode", "blur"),
}
"""Keys that affect results only with one value of another key."""


def suggested_runs(data: ReportData) -> Section:
    """Return the commands of runs that change one key of the best configurations."""
    section = Section(
        "suggestions", "Next runs", question="Which runs come next?",
        absence="every value of a key that was varied alone was run with the best configurations",
    )  # fmt: skip
    for i, group in enumerate(data.groups):
        table = Table(
            f"suggestions{i + 1}", f"{group.dataset}: untested values of single keys",
            ("id", "key", "value", "untested value", "command"),
            note=f"The {_NUM_BEST} best configurations (without ensembles) with a value that was run in another "
            "configuration only. Run the commands in the folder in which the runs were started.",
        )  # fmt: skip
        values = _values_by_key(group)
        single_commands = [c for c in group.configurations if not c.runs[0].is_ensemble]  # no command runs an ensemble
        for c in single_commands[:_NUM_BEST]:
            if c.mean(data.options.metric) is None:
                continue
            for key, current, value in _untested_values(group, c, values):
                text = command(c, {key: value})
                table.rows.append([id_cell(c), key, current, value, Cell(text, text, emphasis="code")])
        if table.rows:
            section.blocks.append(table)
    return section


def is_relevant(configuration: Configuration, key: str) -> bool:
    """Whether another value of a key can change the results of a configuration."""
    if matches_any(key, _TRAINING_KEYS) and not any(run.is_trained for run in configuration.runs):
        return False
    other, required = _DEPENDENT_KEYS.get(key, ("", ""))
    return bool(configuration.settings.get(other, required) == required)


def command(configuration: Configuration, changes: Mapping[str, str]) -> str:
    """Return the command that runs a configuration, with all of its seeds, and some keys changed.

    Args:
        configuration: The configuration.
        changes: Other values by key.
    """
    replaced = (*changes, "hydra.run.dir", "seed")
    overrides = [o for o in configuration.runs[0].overrides if override_key(o) not in replaced]
    seeds = sorted({run.seed for run in configuration.runs if run.seed >= 0})
    seed = [f"seed={','.join(map(str, seeds))}"] if seeds else []
    multirun = ["-m"] if len(seeds) > 1 else []
    changed = [f"{key}={value.replace(', ', ',')}" for key, value in changes.items()]
    return shlex.join(["moleflow", "train", *multirun, *overrides, *changed, *seed])


def _values_by_key(group: ComparisonGroup) -> dict[str, list[str]]:
    """Return the values of each single key that were run, as text."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for single in group.single_key_groups:
        if is_component(single.members[0][1].settings, single.key):
            continue  # a whole component has no single value
        for text, c in single.members:
            if single.key in c.settings:
                values[single.key][text] = None
    return {key: list(texts) for key, texts in values.items()}


def _untested_values(
    group: ComparisonGroup, configuration: Configuration, values: dict[str, list[str]]
) -> Iterator[tuple[str, str, str]]:
    """Yield key, current value and untested value of all relevant changes of one key."""
    tested = {(neighbor.key, neighbor.value) for neighbor in group.neighbors(configuration)}
    for key, texts in values.items():
        current = format_value(configuration.settings.get(key))
        if key in configuration.settings and is_relevant(configuration, key):
            yield from ((key, current, text) for text in texts if text != current and (key, text) not in tested)
