"""Exact metrics: ranking, per-region overlap, one category, a sequence of tasks, and their means."""

from moleflow.metrics.category import CategoryMetrics
from moleflow.metrics.continual import TaskMatrix
from moleflow.metrics.pixels import pixel_metrics
from moleflow.metrics.ranking import Ranking, Standing, auroc, average_precision, rank
from moleflow.metrics.region_overlap import per_region_overlap
from moleflow.metrics.summary import mean_over_categories

__all__ = [
    "CategoryMetrics",
    "Ranking",
    "Standing",
    "TaskMatrix",
    "auroc",
    "average_precision",
    "mean_over_categories",
    "per_region_overlap",
    "pixel_metrics",
    "rank",
]
