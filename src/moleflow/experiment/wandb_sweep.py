"""Sweeps of ``conf/sweep`` as sweeps of Weights & Biases."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig

from moleflow.experiment.compose import compose_config
from moleflow.experiment.objective import objective_keys
from moleflow.runs.naming import override_key
from moleflow.utils.errors import UserError

_COMMAND = ("${env}", "${program}", "train")
_NO_SWEEP = "Choose one that has hydra.sweeper.params, as conf/sweep/tail_weight.yaml has."


def wandb_sweep(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a sweep of ``conf/sweep`` as the content of a sweep file of W&B.

    An agent runs one job of the sweep per command: ``moleflow train +sweep=NAME hydra.mode=RUN``, with the overrides
    and one value of each swept key. A grid of values becomes W&B's ``grid``; a search over intervals becomes ``bayes``
    on the objective of the configuration, of several on the first.

    Args:
        name: Name of the sweep, an option of ``conf/sweep``.
        overrides: Further overrides of all jobs, such as ``dataset.root=/data/MVTecAD``.

    Raises:
        UserError: If the option has no swept keys, an override has several values, or the runs would not use W&B.
        hydra.errors.HydraException: If the configuration cannot be composed.
    """
    parser = OverridesParser.create()
    swept = [
        override.input_line for override in parser.parse_overrides(list(overrides)) if override.is_sweep_override()
    ]
    if swept:
        raise UserError(f"{swept[0]} has several values. Write them into a file conf/sweep/mine.yaml.")
    logger = [] if "logger" in map(override_key, overrides) else ["logger=wandb"]
    fixed = [f"+sweep={name}", "hydra.mode=RUN", *logger, *overrides]
    config = compose_config(fixed)
    if "wandb" not in config.logger:
        raise UserError("A sweep of W&B needs its logger. Leave out logger=..., or set logger=[csv,wandb].")
    params = config.hydra.sweeper.get("params")
    if not params:
        raise UserError(f"+sweep={name} has no swept keys. {_NO_SWEEP}")
    parameters, is_appended = sweep_parameters(params)
    is_grid = all("values" in parameter for parameter in parameters.values())
    return {
        "name": name,
        "project": config.logger.wandb.project,
        "program": "moleflow",
        "method": "grid" if is_grid else "bayes",
        **_search_keys(config, is_grid),
        "metric": {"name": objective_keys(config.objective)[0], "goal": _first_direction(config)},
        "parameters": parameters,
        "command": [*_COMMAND, *fixed, "${args_append_hydra}" if is_appended else "${args_no_hyphens}"],
    }


def sweep_parameters(params: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], bool]:
    """Return the swept keys as parameters of W&B, and whether all of them are appended to the configuration.

    Keys that are all appended have no plus, which W&B's macro ``args_append_hydra`` adds. There is no macro for a
    mixture: the names of the parameters then have the plus.

    Args:
        params: Values of ``hydra.sweeper.params`` by key.
    """
    lines = [f"{key}={' '.join(str(value).split())}" for key, value in params.items()]
    overrides = OverridesParser.create().parse_overrides(lines)
    keys = [override.get_key_element() for override in overrides]
    is_appended = all(key.startswith("+") for key in keys)
    names = [key.lstrip("+") if is_appended else key for key in keys]
    return dict(zip(names, map(_parameter, overrides), strict=True)), is_appended


def _first_direction(config: DictConfig) -> str:
    """Return ``maximize`` or ``minimize``, of several objectives that of the first."""
    direction = config.hydra.sweeper.get("direction") or "maximize"
    return str(direction if isinstance(direction, str) else direction[0])


def _search_keys(config: DictConfig, is_grid: bool) -> dict[str, Any]:
    """Return the number of runs of a search; a grid ends by itself."""
    trials = config.hydra.sweeper.get("n_trials")
    return {} if is_grid or trials is None else {"run_cap": trials}


def _parameter(override: Override) -> dict[str, Any]:
    """Return a swept key as a parameter of W&B."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        ends: list[Any] = [value.start, value.end]
        is_whole = all(isinstance(end, int) for end in ends)
        kind = "log_uniform_values" if "log" in value.tags else "int_uniform" if is_whole else "uniform"
        return {"distribution": kind, "min": value.start, "max": value.end}
    if override.is_sweep_override():
        texts = list(override.sweep_string_iterator())
    else:
        texts = [override.get_value_element_as_str()]
    return {"values": [_number_or_text(text) for text in texts]}


def _number_or_text(text: str) -> bool | int | float | str:
    """Return a value that the agent writes into the command line as Hydra parses it: ``null`` remains a text."""
    value = OverridesParser.create().parse_override(f"key={text}").value()
    return value if isinstance(value, bool | int | float) else text
