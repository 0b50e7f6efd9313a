"""The objective of a search: one or several values of ``metrics.json``."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moleflow.runs.content import METRICS
from moleflow.runs.metric_names import is_data_set_metric
from moleflow.utils.errors import UserError, check_choice, did_you_mean

if TYPE_CHECKING:
    from moleflow.data.datamodule import ImageDataModule

_ROOTS = (*METRICS, "forgetting", "backward_transfer", "return_gain", "oracle", "per_category", "seconds")
"""First parts of the allowed objectives: the numeric keys of ``metrics.json``."""

_PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pro")
_IMAGE_METRICS = ("image_auroc", "image_ap")


_TASK_ROOTS = (*METRICS, "per_category")
"""First parts of the objectives that are computed after each task."""


def objective_keys(objective: object) -> list[str]:
    """Return the keys of ``metrics.json`` that a search optimizes.

    Args:
        objective: The value of ``objective``: a key or a list of keys.

    Raises:
        UserError: If it is neither, or a key is in the list twice.
    """
    keys = [objective] if isinstance(objective, str) else list(objective) if isinstance(objective, Sequence) else []
    texts = [key for key in keys if isinstance(key, str)]
    if not texts or len(texts) < len(keys) or len(set(texts)) < len(texts):
        raise UserError(f"objective={objective} must be a key of metrics.json, or a list of different keys.")
    return texts


def check_objective(objective: object) -> None:
    """Check before the run that ``metrics.json`` can have the objective.

    Args:
        objective: A key of ``metrics.json``, or a list of keys.

    Raises:
        UserError: If it cannot.
    """
    for key in objective_keys(objective):
        root = key.split(".")[0]
        if not is_data_set_metric(root):
            check_choice("objective", root, _ROOTS)


def check_intermediate_objective(key: str) -> None:
    """Check that an objective is computed after each task, which a pruner needs.

    Raises:
        UserError: If it is not.
    """
    root = key.split(".")[0]
    if root not in _TASK_ROOTS and not is_data_set_metric(root):
        raise UserError(
            f"objective={key} is computed at the end of a run only, so that no pruner can end a trial early. Set "
            "hydra/sweeper/pruner=none, or another objective such as pixel_ap."
        )


def check_search_objective(key: str, data: "ImageDataModule", num_tasks: int | None = None) -> None:
    """Check that a data set permits the metric that a search maximizes.

    Args:
        key: The objective, a dotted key of ``metrics.json``.
        data: The data set.
        num_tasks: Number of tasks; None: not checked.

    Raises:
        UserError: If the metric cannot exist: a pixel metric without masks, an image metric of test images of one
            class, or forgetting with one task.
    """
    first, *others = key.split(".")
    if first in ("forgetting", "backward_transfer") and num_tasks == 1:
        raise UserError(
            f"objective={key} does not exist with one task. Set objective=image_auroc, or another scenario."
        )
    if is_data_set_metric(first):
        from moleflow.evaluation.groups import defined_metrics

        names = set[str]().union(*(defined_metrics(data.scan(category)) for category in data.categories))
        check_choice("objective", first, (*_PIXEL_METRICS, *_IMAGE_METRICS, *sorted(names)))
    metric = next((part for part in (first, *others) if part in (*_PIXEL_METRICS, *_IMAGE_METRICS)), None)
    if metric is None:
        return
    single = first == "per_category" and others[0] in data.categories
    categories = [others[0]] if single else list(data.categories)
    where = f"{categories[0]} has" if single else "the data set has"
    if metric in _PIXEL_METRICS and not any(data.has_masks(category) for category in categories):
        raise UserError(
            f"objective={key} cannot be searched: {where} no masks, so there are no pixel metrics. "
            f"Set objective={key.replace(metric, 'image_auroc')}, or add masks."
        )
    labels = [{sample.label for sample in data.samples("test", category)} for category in categories]
    if not any(len(found) > 1 for found in labels):
        raise UserError(
            f"objective={key} cannot be searched: {where} test images of one class only. Add normal and defective test "
            "images."
        )


def objective(metrics: Mapping[str, Any], key: str) -> float | None:
    """Return one value of ``metrics.json``; None where it does not exist, such as a pixel metric without masks.

    Args:
        metrics: The content of ``metrics.json``; empty in a worker of a data-parallel run, whose result is None.
        key: Dotted key, such as ``pixel_ap`` or ``per_category.screw.image_auroc``.

    Raises:
        UserError: If there is no such value.
    """
    if not metrics:
        return None
    value: Any = metrics
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = list(value) if isinstance(value, Mapping) else []
            raise UserError(f"objective={key} does not exist: metrics.json has no {part!r}.{did_you_mean(part, known)}")
        value = value[part]
    if isinstance(value, Mapping | list | str):
        raise UserError(f"objective={key} is not a number. Choose one of its keys, such as {key}.pixel_ap.")
    return None if value is None else float(value)


def intermediate_objective(
    means: Mapping[str, float | None], per_category: Mapping[str, Mapping[str, float]], key: str
) -> float | None:
    """Return the objective after a task; None if it is not computed yet.

    Args:
        means: Means of the metrics over the categories so far.
        per_category: Metrics of each category so far.
        key: Dotted key of ``metrics.json``.
    """
    root, *parts = key.split(".")
    if root != "per_category":
        value = means.get(root)
    else:
        category, metric = ".".join(parts[:-1]), parts[-1]
        value = per_category.get(category, {}).get(metric)
    return None if value is None or math.isnan(value) else float(value)
