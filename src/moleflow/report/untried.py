"""What has not been tried: configurations one step from the best ones that no run has, as commands."""

import shlex
from collections import defaultdict
from collections.abc import Iterator

from moleflow.report.configurations import Bench, Configuration, shown
from moleflow.report.content import Content, Section
from moleflow.report.tables import Table, name_cell
from moleflow.training.run_folder import is_any_of

_OF_TRAINING = ("epochs", "batch_size", "loss", "optimizer", "trainer", "continual")
_ONLY_WITH = {
    "scoring.top_k": ("scoring.aggregation", "top_k"),
    "scoring.top_k_percent": ("scoring.aggregation", "top_k_percent"),
    "scoring.percentile": ("scoring.aggregation", "percentile"),
    "model.adapter_start": ("model.adapter", "whitening"),
    "model.adapter_rank": ("model.adapter", "statistics"),
    "model.adapter_shrinkage": ("model.adapter", "statistics"),
    "model.spatial_context_strength": ("model.spatial_context_mode", "blur"),
}
"""Keys that say something beside one value of another key alone."""


def not_tried(content: Content) -> Section:
    """Return configurations one step from the best ones that no run has, as commands."""
    section = Section("not-tried", "Not tried yet")
    for i, bench in enumerate(content.benches):
        table = Table(
            f"not_tried{i + 1}", f"{bench.dataset}: next to the best",
            ("next to", "key", "value there", "value not tried", "command"),
            note="Values that other runs tried, put into the three best configurations that one command runs. Run the "
            "command where train.py is.",
        )  # fmt: skip
        values = _values(bench)
        made = [c for c in bench.configurations if "ensemble" not in c.runs[0].config]  # no command runs an ensemble
        for c in made[:3]:
            if c.mean(content.options.metric) is None:
                continue
            for key, own, text in _steps(bench, c, values):
                table.rows.append([name_cell(c), key, own, text, command(c, key, text)])
        if table.rows:
            section.blocks.append(table)
    return section


def matters(configuration: Configuration, key: str) -> bool:
    """Whether another value of a key could change what a configuration gives."""
    if is_any_of(key, _OF_TRAINING) and not any(run.trained for run in configuration.runs):
        return False
    other, value = _ONLY_WITH.get(key, ("", ""))
    return bool(configuration.settings.get(other, value) == value)


def command(configuration: Configuration, key: str, value: str) -> str:
    """Return the command that runs a configuration with one key changed."""
    given = [
        o for o in configuration.runs[0].overrides if o.lstrip("+~").split("=")[0] not in (key, "hydra.run.dir", "seed")
    ]
    seeds = sorted({run.seed for run in configuration.runs if run.seed >= 0})
    setting = f"{key}={value.replace(', ', ',')}"
    seed = [f"seed={','.join(map(str, seeds))}"] if seeds else []
    multi = ["-m"] if len(seeds) > 1 else []
    return shlex.join(["python", "train.py", *multi, *given, setting, *seed])


def _values(bench: Bench) -> dict[str, list[str]]:
    """Return what was tried of each single key, as text."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for group in bench.groups:
        if any(f"{group.key}.{name}" in group.members[0][1].settings for name in ("name", "_target_")):
            continue  # a whole part has no single value to set
        for text, c in group.members:
            if group.key in c.settings:
                values[group.key][text] = None
    return {key: list(texts) for key, texts in values.items()}


def _steps(bench: Bench, of: Configuration, values: dict[str, list[str]]) -> Iterator[tuple[str, str, str]]:
    """Yield key, value there and value not tried of all steps from a configuration that could change it."""
    tried = {(key, there) for key, _, there, _ in bench.neighbours(of)}
    for key, texts in values.items():
        own = shown(of.settings.get(key))
        if key in of.settings and matters(of, key):
            yield from ((key, own, text) for text in texts if text != own and (key, text) not in tried)
