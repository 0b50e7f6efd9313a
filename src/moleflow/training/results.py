"""What a run leaves behind for others to read: ``metrics.json`` and ``scores.csv``."""

import csv
import platform
import resource
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from hydra.core.hydra_config import HydraConfig

from moleflow import __version__
from moleflow.data import PictureDataModule, Sample, Task
from moleflow.files import plain, replacing, write_json
from moleflow.metrics import mean_over_categories
from moleflow.model import MoLEFlow
from moleflow.training.evaluation import CategoryResult, Evaluator
from moleflow.training.progress import Progress
from moleflow.training.tables import aligned

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro")
PACKAGES = ("torch", "lightning", "hydra-core", "timm", "numpy", "pillow", "torchmetrics")


class MeasuredRun(Protocol):
    """What results are written of: a :class:`~moleflow.training.sequence.TaskSequence`, or an ensemble of such."""

    folder: Path
    model: MoLEFlow
    data: PictureDataModule
    evaluator: Evaluator
    progress: Progress
    tasks: list[Task]
    loggers: list[Any]

    @property
    def categories(self) -> list[str]: ...
    def complete(self, metrics: dict[str, Any]) -> None: ...
    def learned_and_held_out(self, category: str) -> tuple[list[Sample], list[Sample]]: ...


def write_results(run: MeasuredRun, routed: dict[str, CategoryResult], started: float) -> dict[str, Any]:
    """Write ``scores.csv`` and, last, ``metrics.json``; return the content of the latter.

    Args:
        run: The finished sequence.
        routed: Its last routed results by category.
        started: When this process began, in seconds since the epoch.
    """
    with run.progress.clock("evaluation"):
        oracle = run.evaluator.oracle(run.categories, "oracle")
    metrics = collect(run, routed, oracle)
    metrics["overrides"] = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    metrics["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    metrics["started"] = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started))
    run.complete(metrics)
    write_scores(run.folder / "scores.csv", run.data.root, routed)
    summary = {name: metrics[name] for name in (*METRICS, "routing_accuracy") if metrics[name] is not None}
    for logger in run.loggers:
        logger.log_metrics({f"final/{name}": value for name, value in summary.items()}, step=run.progress.step)
    write_json(run.folder / "metrics.json", metrics)
    return dict(plain(metrics))


def collect(run: MeasuredRun, routed: dict[str, CategoryResult], oracle: dict[str, CategoryResult]) -> dict[str, Any]:
    """Return the content of ``metrics.json``, all but the dates; None where a metric does not exist."""
    means = mean_over_categories({category: result.metrics for category, result in routed.items()})
    pictures = sum(len(result.samples) for result in routed.values())
    right = sum(result.routing_accuracy * len(result.samples) for result in routed.values())
    matrix = run.progress.matrix
    return {
        "status": "finished",
        **{name: means.get(name) for name in METRICS},
        "routing_accuracy": right / pictures,
        "forgetting": {name: matrix.forgetting(name) for name in matrix.metrics},
        "backward_transfer": {name: matrix.backward_transfer(name) for name in matrix.metrics},
        "oracle": mean_over_categories({category: result.metrics for category, result in oracle.items()}),
        "per_category": {
            category: {
                **{name: result.metrics.get(name) for name in METRICS},
                "routing_accuracy": result.routing_accuracy,
                "oracle": oracle[category].metrics,
                "expert": run.model.expert_of(category),
                "train_pictures": len(run.learned_and_held_out(category)[0]),
                "test_pictures": len(result.samples),
                "test_defects": sum(sample.label for sample in result.samples),
                "masks": run.data.lost(category)._asdict(),
            }
            for category, result in routed.items()
        },
        "masks": {"measured": "native" if run.data.native_masks else "seen", **run.data.lost()._asdict()},
        "task_matrix": {"tasks": [list(task.categories) for task in run.tasks], **matrix.to_dict()},
        "routing": {
            "experts": list(run.model.flow.names),
            "counts": {category: dict(Counter(result.routes)) for category, result in routed.items()},
        },
        "parameters": {**run.model.parameter_counts(), "kept": run.progress.kept_numbers},
        "training": {
            "steps": run.progress.step,
            "skipped_steps": run.progress.skipped_steps,
            "epochs": run.progress.histories,
        },
        "seconds": run.progress.seconds,
        "versions": {
            "moleflow": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "memory": peak_memory(),
        "device": str(run.model.device),
    }


def peak_memory() -> dict[str, int]:
    """Return the most memory that this process held, in bytes; on a GPU what torch held there too."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    return peak | ({"peak_gpu_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {})


def summary(metrics: dict[str, Any]) -> list[str]:
    """Return the results as a table: one line a category, then the mean over categories."""
    columns = (*METRICS, "routing_accuracy")
    rows = [*metrics["per_category"].items(), ("mean", metrics)]
    cells = [[name, *("-" if row[key] is None else f"{row[key]:.4f}" for key in columns)] for name, row in rows]
    return aligned([["", *columns], *cells])


def write_scores(path: Path, root: Path, routed: dict[str, CategoryResult]) -> None:
    """Write one row a test picture; paths are relative to the data set's root, scores have every digit."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "category", "defect", "label", "image_score", "routed_to"))
        for category, result in routed.items():
            for sample, score, route in zip(result.samples, result.scores.tolist(), result.routes, strict=True):
                relative = sample.path.relative_to(root) if sample.path.is_relative_to(root) else sample.path
                writer.writerow((relative.as_posix(), category, sample.defect, sample.label, repr(score), route))
