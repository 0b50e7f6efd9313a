"""Result files of a run: ``metrics.json`` and ``scores.csv``."""

import csv
import platform
import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from moleflow import __version__
from moleflow.data.datamodule import ImageDataModule
from moleflow.data.tasks import Task
from moleflow.detector.base import Detector
from moleflow.evaluation.evaluator import CategoryResult
from moleflow.metrics.averaging import mean_over_categories
from moleflow.metrics.task_matrix import TaskMatrix
from moleflow.runs.metric_names import is_data_set_metric
from moleflow.runs.progress import Progress
from moleflow.utils.environment import escape_undecodable
from moleflow.utils.io import atomic_write, to_jsonable, write_json
from moleflow.utils.tables import format_table

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro")
PACKAGES = ("torch", "lightning", "hydra-core", "timm", "numpy", "pillow", "torchmetrics")


def collect_metrics(
    detector: Detector,
    data: ImageDataModule,
    tasks: Sequence[Task],
    progress: Progress,
    routed: Mapping[str, CategoryResult],
    oracle: Mapping[str, CategoryResult],
    decisions: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Return the content of ``metrics.json`` except dates and command; None for a metric that does not exist.

    Args:
        detector: The detector after all tasks.
        data: The data module.
        tasks: The tasks.
        progress: Steps, times and the task matrix.
        routed: Results by category, each image scored by the router's choice.
        oracle: Results by category, each image scored by the expert of its true category.
        decisions: Metrics of the decisions by category; see :meth:`~.evaluator.Evaluator.decisions`.
    """
    means = mean_over_categories({category: result.metrics for category, result in routed.items()})
    count = sum(len(result.samples) for result in routed.values())
    correct = sum(result.routing_accuracy * len(result.samples) for result in routed.values())
    matrix = progress.matrix
    return {
        "status": "finished",
        **{name: means.get(name) for name in (*METRICS, "pro_5", *data_set_metric_names(routed))},
        "routing_accuracy": correct / count,
        "decisions": mean_over_categories(decisions),
        "forgetting": {name: matrix.forgetting(name) for name in matrix.metrics},
        "backward_transfer": {name: matrix.backward_transfer(name) for name in matrix.metrics},
        **_return_gain(tasks, matrix),
        "oracle": mean_over_categories({category: result.metrics for category, result in oracle.items()}),
        "per_category": {
            category: {
                **dict.fromkeys((*METRICS, "pro_5")),
                **result.metrics,
                "routing_accuracy": result.routing_accuracy,
                "decisions": dict(decisions[category]),
                "oracle": oracle[category].metrics,
                "expert": detector.expert_of(category),
                "train_pictures": len(data.split(category)[0]),
                "test_pictures": len(result.samples),
                "test_defects": sum(sample.label for sample in result.samples),
                "masks": data.coverage_loss(category)._asdict(),
            }
            for category, result in routed.items()
        },
        **_per_dataset(data, routed),
        "masks": {"measured": "full" if data.full_masks else "cropped", **data.coverage_loss()._asdict()},
        "task_matrix": {"tasks": [list(task.categories) for task in tasks], **matrix.to_dict()},
        "routing": {
            "experts": list(detector.experts),
            "counts": {category: dict(Counter(result.routes)) for category, result in routed.items()},
        },
        "parameters": {**detector.parameter_counts(), "kept": progress.strategy_values},
        "training": {
            "steps": progress.step,
            "skipped_steps": progress.skipped_steps,
            "epochs": progress.histories,
        },
        **({"augmentations": progress.augmentations} if progress.augmentations else {}),
        "seconds": progress.seconds,
        "versions": {
            "moleflow": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "memory": peak_memory(),
        "device": str(detector.device),
    }


def _return_gain(tasks: Sequence[Task], matrix: TaskMatrix) -> dict[str, Any]:
    """Return the gain of each metric by the categories that returned; empty if none did."""
    returns = {
        task.index: next(first.index for first in tasks if task.categories[0] in first.categories)
        for task in tasks
        if task.visit
    }
    return {"return_gain": {name: matrix.return_gain(name, returns) for name in matrix.metrics}} if returns else {}


def _per_dataset(data: ImageDataModule, routed: Mapping[str, CategoryResult]) -> dict[str, Any]:
    """Return the means over the categories of each data set of a mixed stream; empty for a single data set."""
    groups: dict[str, dict[str, CategoryResult]] = {}
    for category, result in routed.items():
        if name := data.dataset_of(category):
            groups.setdefault(name, {})[category] = result
    if not groups:
        return {}
    means = {
        name: dict.fromkeys(METRICS) | mean_over_categories({c: r.all_metrics() for c, r in results.items()})
        for name, results in groups.items()
    }
    return {"per_dataset": {name: {**mean, "categories": list(groups[name])} for name, mean in means.items()}}


def data_set_metric_names(routed: Mapping[str, CategoryResult]) -> list[str]:
    """Return the metrics that only some data sets define, each once.

    Args:
        routed: Results by category.
    """
    names = dict.fromkeys(name for result in routed.values() for name in result.metrics)
    return [name for name in names if name not in METRICS]


def write_results(
    folder: Path, metrics: Mapping[str, Any], routed: Mapping[str, CategoryResult], root: Path
) -> dict[str, Any]:
    """Write ``scores.csv`` and, last, ``metrics.json``; return the content of the latter in JSON's types.

    Args:
        folder: The run folder.
        metrics: Content of ``metrics.json``.
        routed: Results by category.
        root: Root of the data set; paths in ``scores.csv`` are relative to it.
    """
    write_scores(folder / "scores.csv", root, routed)
    write_json(folder / "metrics.json", metrics)
    return dict(to_jsonable(dict(metrics)))


def write_scores(path: Path, root: Path, routed: Mapping[str, CategoryResult]) -> None:
    """Write one row per test image, with paths relative to the data set's root and scores in full precision.

    Bytes of names that are not UTF-8 are escaped.
    """
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "category", "defect", "label", "image_score", "routed_to"))
        for category, result in routed.items():
            for sample, score, route in zip(result.samples, result.scores.tolist(), result.routes, strict=True):
                relative = sample.path.relative_to(root) if sample.path.is_relative_to(root) else sample.path
                row = (relative.as_posix(), category, sample.defect, str(sample.label), repr(score), route)
                writer.writerow(map(escape_undecodable, row))


def peak_memory() -> dict[str, int]:
    """Return the peak memory of this process in bytes, and that of torch on a GPU if there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    return peak | ({"peak_gpu_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {})


def format_metrics(metrics: Mapping[str, Any]) -> list[str]:
    """Return the results as text tables: one line per category, then the mean over categories.

    Metrics that only some data sets define are in a second table.
    """
    datasets = [(f"mean of {name}", row) for name, row in metrics.get("per_dataset", {}).items()]
    rows = [*metrics["per_category"].items(), *datasets, ("mean", metrics)]

    def table(columns: Sequence[str]) -> list[str]:
        values = [[row.get(key) for key in columns] for _, row in rows]
        cells = [["-" if value is None else f"{value:.4f}" for value in row] for row in values]
        return format_table([["", *columns], *([name, *row] for (name, _), row in zip(rows, cells, strict=True))])

    others = [name for name in metrics if is_data_set_metric(name)]
    return [*table((*METRICS, "routing_accuracy")), *(["", *table(others)] if others else [])]
