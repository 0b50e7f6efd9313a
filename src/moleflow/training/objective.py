"""The one number by which a search judges a run."""

from collections.abc import Mapping
from typing import Any

from moleflow.errors import UserError, choice, nearest
from moleflow.training.results import METRICS

HEADS = (*METRICS, "routing_accuracy", "forgetting", "backward_transfer", "oracle", "per_category", "seconds")
"""What an objective may begin with: the numbers in ``metrics.json``."""


def check_objective(key: str) -> None:
    """Refuse a name before the run that cannot be found after it.

    Raises:
        UserError: If ``metrics.json`` has no such numbers.
    """
    choice("objective", key.split(".")[0], HEADS)


def objective(metrics: Mapping[str, Any], key: str) -> float | None:
    """Return one number of ``metrics.json``; None where it does not exist, as pixel metrics without masks.

    Args:
        metrics: The content of ``metrics.json``; empty in a worker of a data-parallel run, where the result is None.
        key: Its name, with dots for what lies deeper: ``pixel_ap``, ``per_category.screw.image_auroc``.

    Raises:
        UserError: If there is no such number; the message offers the nearest name.
    """
    if not metrics:  # a worker of a data-parallel run: the first process has them
        return None
    value: Any = metrics
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = list(value) if isinstance(value, Mapping) else []
            raise UserError(f"objective={key}: metrics.json has no {part!r} there.{nearest(part, known)}")
        value = value[part]
    if isinstance(value, Mapping | list | str):
        raise UserError(f"objective={key} is not a number. Name one of its parts, such as {key}.pixel_ap.")
    return None if value is None else float(value)
