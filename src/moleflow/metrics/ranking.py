"""Exact AUROC and average precision of scores of any range, with ties.

Both metrics are functions of counts: how many normal samples score less than, and how many the same as, each defect
sample. Sorting the scores of each class and looking up one class in the other gives these counts exactly, without a
grid of thresholds, rescaling or a sigmoid.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_EXACT_DTYPES = (torch.float32, torch.float64)


class RankCounts(NamedTuple):
    """Numbers of normal samples that score less than, or the same as, each defect sample."""

    scores: Tensor
    """(P,) scores of the defect samples, in ascending order."""
    below: Tensor
    """(P,) int64, number of normal samples with a lower score."""
    up_to: Tensor
    """(P,) int64, number of normal samples with a lower or the same score."""
    normal: int
    """Number of normal samples."""

    def auroc(self) -> float:
        """Return the area under the ROC curve; nan if a class is empty.

        It is the probability that a defect sample scores higher than a normal one, with ties counted half.

        Reference: Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.
        """
        if not self.has_both_classes():
            return float("nan")
        wins = self.below.sum(dtype=torch.float64) + self.up_to.sum(dtype=torch.float64)
        return float(wins / 2 / (len(self.scores) * self.normal))

    def average_precision(self) -> float:
        """Return the step-wise sum of precision over the steps of recall; nan if a class is empty.

        Every defect sample adds the precision at the threshold that equals its own score, so tied samples share a step.
        """
        if not self.has_both_classes():
            return float("nan")
        false_positives = self.normal - self.below
        true_positives = len(self.scores) - torch.searchsorted(self.scores, self.scores)
        return float((true_positives.double() / (true_positives + false_positives)).mean())

    def has_both_classes(self) -> bool:
        """Return whether there is at least one defect sample and one normal sample."""
        return len(self.scores) > 0 and self.normal > 0


class Ranking(NamedTuple):
    """Scores of the two classes, each in ascending order, on the device of the scores."""

    positives: Tensor
    """(P,) sorted scores of the defect samples."""
    negatives: Tensor
    """(N,) sorted scores of the normal samples."""

    def counts(self) -> RankCounts:
        """Return the rank counts of the defect samples."""
        return RankCounts(self.positives, *lookup(self.negatives, self.positives), len(self.negatives))


def rank(scores: Tensor, labels: Tensor) -> Ranking:
    """Sort the scores of each class.

    Args:
        scores: Scores of any shape and range; higher means more anomalous. Infinite scores are allowed.
        labels: Labels of the same shape; any non-zero value is a defect.

    Raises:
        ValueError: If the shapes differ or a score is NaN, which has no rank.
    """
    if scores.shape != labels.shape:
        raise ValueError(
            f"Scores of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)} don't match."
        )
    values = flatten_scores(scores)
    is_defect = labels.detach().flatten().bool()
    return Ranking(sort_scores(select(values, is_defect)), sort_scores(select(values, ~is_defect)))


def lookup(sorted_scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many of the sorted scores lie below, and how many at or below, each value.

    Args:
        sorted_scores: (N,) in ascending order.
        values: (M,) values.

    Returns:
        Two tensors (M,) int64.
    """
    return torch.searchsorted(sorted_scores, values), torch.searchsorted(sorted_scores, values, right=True)


def flatten_scores(scores: Tensor) -> Tensor:
    """Return scores of any shape and dtype as (N,) float32 or float64, detached and without loss of precision."""
    values = scores.detach().flatten()
    if values.dtype in _EXACT_DTYPES:
        return values
    return values.float() if values.is_floating_point() else values.double()


def select(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values[mask]`` (P,) of values (N,) and a bool mask (N,).

    On the CPU numpy is 5 times faster because it creates no list of 64-bit indices.
    """
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy()[mask.numpy()])
    return values[mask]


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Return the area under the ROC curve as a rank statistic.

    Args:
        scores: Scores of any shape and range.
        labels: Labels of the same shape, non-zero for a defect.

    Returns:
        The area in [0, 1], or nan if only one class is present.

    Raises:
        ValueError: If the shapes differ or a score is NaN.
    """
    return rank(scores, labels).counts().auroc()


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return the average precision as the step-wise sum, without interpolation.

    Args:
        scores: Scores of any shape and range.
        labels: Labels of the same shape, non-zero for a defect.

    Returns:
        The average precision in (0, 1], or nan if only one class is present.

    Raises:
        ValueError: If the shapes differ or a score is NaN.
    """
    return rank(scores, labels).counts().average_precision()


def sort_scores(values: Tensor) -> Tensor:
    """Return ``values`` (N,) in ascending order; on the CPU by numpy, whose sort is 10 times faster than torch's.

    Raises:
        ValueError: If a score is NaN, which has no rank.
    """
    in_order = torch.from_numpy(np.sort(values.numpy())) if values.device.type == "cpu" else values.sort().values
    if len(in_order) and bool(in_order[-1].isnan()):  # a sort puts NaN last
        raise ValueError("A score is NaN and has no rank. NaN scores are not replaced: find their cause.")
    return in_order
