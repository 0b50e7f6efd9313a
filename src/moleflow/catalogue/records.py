"""Tables of recorded and proposed runs, and the columns of a configuration in these tables."""

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

NOISE = {"report": 0.003, "scenario": 0.003, "mole6_dia2": 0.0085, "interaction": 0.0085}
"""Standard deviation of pixel AP over seeds by group; the first two have 8 coupling layers, the others 6."""
DEFAULT_NOISE = 0.0085
"""Used for groups whose standard deviation was not measured (other data sets): the larger of the measured ones."""

SETTINGS = (
    "dataset", "backbone", "lr", "epochs", "coupling_layers", "dia_blocks", "lora_rank", "lambda_logdet", "tail_weight",
    "tail_top_k_ratio", "aggregation", "aggregation_value", "scale_context_kernel", "spatial_context_kernel",
)  # fmt: skip
"""Columns of the tables that describe a configuration."""
Settings = tuple[str | float | None, ...]


@cache
def recorded() -> tuple[dict[str, str], ...]:
    """Return the rows of ``recorded.csv``: one row per run of the first implementation.

    An empty ``tail_weight`` is the summed loss; ``off`` is a component that was left out. ``inherited`` lists the
    settings that are not part of the run's name and are taken from its group, ``unknown`` those that are not recorded
    and for which the group's value is assumed.
    """
    return _read_table("recorded.csv")


@cache
def proposed() -> tuple[dict[str, str], ...]:
    """Return the rows of ``proposed.csv``: the configurations that the report proposed, in its order."""
    return _read_table("proposed.csv")


def experiment_rows() -> dict[str, dict[str, str]]:
    """Return the rows of both tables that have an experiment file, by the experiment's name."""
    return {row["experiment"]: row for row in (*recorded(), *proposed()) if row["experiment"]}


def recorded_run(name: str) -> dict[str, str] | None:
    """Return the row of a recorded run by its name, or None."""
    return next((row for row in recorded() if row["recorded_name"] == name), None)


def row_settings(row: Mapping[str, str]) -> Settings:
    """Return the settings of a row in the order of :data:`SETTINGS`; None for a component that is left out."""
    return tuple(_parse(row[name]) for name in SETTINGS)


def config_settings(config: Mapping[str, Any]) -> Settings:
    """Return the settings of a resolved configuration in the order of :data:`SETTINGS`.

    They equal those of :func:`row_settings` for the row of the same configuration. A model that is not a flow has none
    of the flow's settings, so it equals no row.
    """
    model, loss, scoring = config["model"], config["loss"], config["scoring"]
    tail = loss["reduction"] != "sum"
    aggregation = str(scoring["aggregation"])
    spatial = None if model.get("spatial_context_mode") == "none" else model.get("spatial_context_kernel")
    values = (
        str(config["dataset"]["_target_"]).rsplit(".", 1)[-1].removesuffix("DataModule").lower(),
        "vit_base_augreg" if str(config["backbone"]["name"]).startswith("vit_base") else
        str(config["backbone"]["name"]).split(".")[0],
        config["optimizer"]["lr"], config["epochs"], model.get("coupling_layers"),
        model.get("dia_blocks"), model.get("lora_rank"), loss["lambda_logdet"], loss["tail_weight"] if tail else None,
        loss.get("tail_top_k_ratio") if tail else None, aggregation, scoring.get(aggregation),
        model.get("scale_context_kernel"), spatial,
    )  # fmt: skip
    return tuple(value if value is None or isinstance(value, str) else float(value) for value in values)


def _parse(text: str) -> str | float | None:
    if text in ("", "off"):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _read_table(name: str) -> tuple[dict[str, str], ...]:
    with files(__package__).joinpath(name).open(encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
