"""Checks of a configuration that need neither torch nor Lightning, whose imports take seconds."""

from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from moleflow.data.layouts.detection import layout_of
from moleflow.data.root import required_root
from moleflow.experiment.objective import check_objective
from moleflow.utils.config import check_type
from moleflow.utils.errors import UserError, check_choice, check_range

_TYPES = {
    "seed": int,
    "progress": bool,
    "validation": float,
    "optimizer.lr": float,
    "optimizer.final_lr_ratio": float,
    "optimizer.gradient_clip": float | None,
    "router.oracle": bool,
    "scenario.parallel": bool,
    "scenario.order_seed": int | None,
    "features.num_workers": int,
    "features.cache_dir": str | None,
}
"""Types of the values that belong to no component."""

_FOLDER_MODULES = tuple(f"moleflow.data.datamodule.{name}DataModule" for name in ("Folder", "MVTec", "MPDD", "VisA"))
"""Data modules that read a folder of the user, in contrast to those that write the images themselves."""


def check_values(settings: Mapping[str, Any]) -> None:
    """Check the values of a resolved configuration that belong to no component.

    Raises:
        UserError: If a value has the wrong type or is not allowed.
    """
    values: dict[str, Any] = {key: reduce(getitem, key.split("."), settings) for key in _TYPES}
    for key, annotation in _TYPES.items():
        check_type(key, values[key], annotation)
    for key in ("seed", "features.num_workers"):
        check_range(key, values[key], 0)
    check_range("optimizer.lr", values["optimizer.lr"], 0, low_open=True, high_open=True)
    check_choice("resume", settings["resume"], ("auto", "force"))
    check_objective(settings["objective"])


def check_data_root(dataset: Mapping[str, Any]) -> None:
    """Check that the folder of a data set exists and has a category.

    Other data modules than those of moleflow are not checked.

    Args:
        dataset: The section ``dataset`` of a resolved configuration.

    Raises:
        UserError: If it does not.
    """
    if dataset["_target_"] not in _FOLDER_MODULES:
        return
    layout = layout_of(required_root(dataset["root"]))
    if not layout.categories():
        raise UserError(f"dataset.root={layout.root} {layout.no_category_message()}")


def dataset_roots(dataset: Mapping[str, Any]) -> list[Path]:
    """Return the folders of a section ``dataset``: one, or several of a mixed stream."""
    parts = dataset.get("parts") or {"": dataset}
    return [Path(str(part["root"])).expanduser() for part in parts.values()]
