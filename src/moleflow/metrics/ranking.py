"""Exact ranking metrics on scores of any range, with ties.

Both metrics are functions of counts: how many normal samples score above, and how many score the same as, each defect
sample. Sorting the two classes apart, without dragging labels along, and looking one up in the other gives those counts
exactly; no threshold grid, no rescaling, no sigmoid.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_EXACT_DTYPES = (torch.float32, torch.float64)


class Ranking(NamedTuple):
    """The scores of both classes, each sorted upwards, on the device of the scores."""

    positives: Tensor
    """(P,) sorted scores of the defect samples."""
    negatives: Tensor
    """(N,) sorted scores of the normal samples."""

    def auroc(self) -> float:
        """Return the probability that a defect outranks a normal sample, ties counted half; nan if a class is empty.

        Reference: Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.
        """
        if not self._both_classes():
            return float("nan")
        below, up_to = lookup(self.negatives, self.positives)
        wins = below.sum(dtype=torch.float64) + up_to.sum(dtype=torch.float64)
        return float(wins / 2 / (len(self.positives) * len(self.negatives)))

    def average_precision(self) -> float:
        """Return the step-wise sum of precision over the steps of recall; nan if a class is empty.

        Every defect sample adds the precision at the threshold that equals its own score, so tied samples share a step.
        """
        if not self._both_classes():
            return float("nan")
        false = len(self.negatives) - torch.searchsorted(self.negatives, self.positives)
        true = len(self.positives) - torch.searchsorted(self.positives, self.positives)
        return float((true.double() / (true + false)).mean())

    def _both_classes(self) -> bool:
        return len(self.positives) > 0 and len(self.negatives) > 0


def rank(scores: Tensor, labels: Tensor) -> Ranking:
    """Sort the scores of the two classes apart.

    Args:
        scores: Scores of any shape and range; higher means more anomalous. Infinities keep their rank.
        labels: Labels of the same shape; any non-zero value is a defect.

    Raises:
        ValueError: If the shapes differ or a score is NaN, which has no rank.
    """
    if scores.shape != labels.shape:
        raise ValueError(
            f"Scores of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)} don't match."
        )
    values = flat(scores)
    is_defect = labels.detach().flatten().bool()
    classes = (_sorted(select(values, is_defect)), _sorted(select(values, ~is_defect)))
    if any(len(part) and bool(part[-1].isnan()) for part in classes):  # a sort puts NaN last
        raise ValueError("A score is NaN, so it has no rank. Find out where it comes from; it is not replaced.")
    return Ranking(*classes)


def lookup(sorted_scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many of ``sorted_scores`` (N,) lie below, and at or below, each of ``values`` (M,): two (M,) int64."""
    return torch.searchsorted(sorted_scores, values), torch.searchsorted(sorted_scores, values, right=True)


def flat(scores: Tensor) -> Tensor:
    """Return scores of any shape and dtype as (N,) float32 or float64, detached, in a dtype that keeps every value."""
    values = scores.detach().flatten()
    if values.dtype in _EXACT_DTYPES:
        return values
    return values.float() if values.is_floating_point() else values.double()


def select(values: Tensor, chosen: Tensor) -> Tensor:
    """Return ``values[chosen]`` (P,); on the CPU through numpy, 5 times faster as it makes no 64-bit index list."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy()[chosen.numpy()])
    return values[chosen]


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Return the area under the ROC curve as a rank statistic.

    Args:
        scores: Scores of any shape and range.
        labels: Labels of the same shape, non-zero for a defect.

    Returns:
        The area in [0, 1], or nan where only one class is present.

    Raises:
        ValueError: If the shapes differ or a score is NaN.
    """
    return rank(scores, labels).auroc()


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return the average precision as the step-wise sum, without interpolation.

    Args:
        scores: Scores of any shape and range.
        labels: Labels of the same shape, non-zero for a defect.

    Returns:
        The average precision in (0, 1], or nan where only one class is present.

    Raises:
        ValueError: If the shapes differ or a score is NaN.
    """
    return rank(scores, labels).average_precision()


def _sorted(values: Tensor) -> Tensor:
    """Return ``values`` (N,) sorted upwards; on the CPU by numpy's vectorised sort, 10 times faster than torch's."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy()))
    return values.sort().values
