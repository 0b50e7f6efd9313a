"""What a run leaves behind for others to read: ``metrics.json`` and ``scores.csv``."""

import csv
import platform
import resource
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.core.hydra_config import HydraConfig

from moleflow import __version__
from moleflow.files import plain, replacing, write_json
from moleflow.metrics import mean_over_categories
from moleflow.training.evaluation import CategoryResult
from moleflow.training.tables import aligned

if TYPE_CHECKING:
    from moleflow.training.sequence import TaskSequence

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro")
PACKAGES = ("torch", "lightning", "hydra-core", "timm", "numpy", "pillow", "torchmetrics")


def write_results(run: "TaskSequence", routed: dict[str, CategoryResult], started: float) -> dict[str, Any]:
    """Write ``scores.csv`` and, last, ``metrics.json``; return the content of the latter.

    Args:
        run: The finished sequence.
        routed: Its last routed results by category.
        started: When this process began, in seconds since the epoch.
    """
    with run.clock("evaluation"):
        oracle = run.evaluator.oracle(run.categories, "oracle")
    metrics = collect(run, routed, oracle)
    metrics["overrides"] = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    metrics["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    metrics["started"] = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started))
    for callback in run.run_callbacks:
        callback.on_run_complete(run, metrics)
    write_scores(run.folder / "scores.csv", run.data.root, routed)
    summary = {name: metrics[name] for name in (*METRICS, "routing_accuracy") if metrics[name] is not None}
    for logger in run.loggers:
        logger.log_metrics({f"final/{name}": value for name, value in summary.items()}, step=run.progress.step)
    write_json(run.folder / "metrics.json", metrics)
    return dict(plain(metrics))


def collect(
    run: "TaskSequence", routed: dict[str, CategoryResult], oracle: dict[str, CategoryResult]
) -> dict[str, Any]:
    """Return the content of ``metrics.json``, all but the dates; None where a metric does not exist."""
    means = mean_over_categories({category: result.metrics for category, result in routed.items()})
    pictures = sum(len(result.samples) for result in routed.values())
    right = sum(result.routing_accuracy * len(result.samples) for result in routed.values())
    matrix = run.progress.matrix
    flow = run.model.flow
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
            }
            for category, result in routed.items()
        },
        "task_matrix": {"tasks": [list(task.categories) for task in run.tasks], **matrix.to_dict()},
        "routing": {
            "experts": list(flow.names),
            "counts": {category: dict(Counter(result.routes)) for category, result in routed.items()},
        },
        "parameters": {
            "base": flow.numbers(),
            "experts": {name: flow.numbers(name) for name in flow.names},
            "kept": sum(value.numel() for value in run.settings.strategy.state().values()),
            "backbone": sum(p.numel() for p in run.model.extractor.backbone.parameters()),
        },
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
