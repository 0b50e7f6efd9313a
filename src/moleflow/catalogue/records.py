"""The recorded runs and the proposals, as tables, and a configuration in the terms of these tables."""

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

TOLERANCE = {"report": 0.006, "scenario": 0.006, "mole6_dia2": 0.017, "interaction": 0.017}
"""Two standard deviations of the pixel AP over seeds, by group: of 8 coupling layers, and of 6."""
OTHER_TOLERANCE = 0.017
"""On other data sets nobody has measured the seed's noise: the wider of the two is taken."""

SETTINGS = (
    "dataset", "backbone", "lr", "epochs", "coupling_layers", "dia_blocks", "lora_rank", "lambda_logdet", "tail_weight",
    "tail_top_k_ratio", "aggregation", "aggregation_value", "scale_context_kernel", "spatial_context_kernel",
)  # fmt: skip
Settings = tuple[str | float | None, ...]


@cache
def recorded() -> tuple[dict[str, str], ...]:
    """Return the rows of ``recorded.csv``: one a run of the first implementation.

    An empty tail weight says that the summed loss was used, ``off`` that a part was left out. ``inherited`` names the
    settings that the run's name does not give and that were those of its group, ``unknown`` those that are not on
    record and for which the group's value stands.
    """
    return _table("recorded.csv")


@cache
def proposed() -> tuple[dict[str, str], ...]:
    """Return the rows of ``proposed.csv``: what the report proposed and nobody ran, in its order."""
    return _table("proposed.csv")


def experiment_rows() -> dict[str, dict[str, str]]:
    """Return the rows that have an experiment, by its name."""
    return {row["experiment"]: row for row in (*recorded(), *proposed()) if row["experiment"]}


def tolerance(group: str) -> float:
    """Return how far two runs of one configuration may lie apart in pixel AP."""
    return TOLERANCE.get(group, OTHER_TOLERANCE)


def row_settings(row: Mapping[str, str]) -> Settings:
    """Return the settings of a row, in the order of :data:`SETTINGS`; None for what was off."""
    return tuple(_value(row[name]) for name in SETTINGS)


def config_settings(config: Mapping[str, Any]) -> Settings:
    """Return what :func:`row_settings` would if this resolved configuration were a row.

    A model that is no flow has none of its settings; no row is like that.
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


def _value(text: str) -> str | float | None:
    if text in ("", "off"):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _table(name: str) -> tuple[dict[str, str], ...]:
    with files(__package__).joinpath(name).open(encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
