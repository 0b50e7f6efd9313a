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


class Standing(NamedTuple):
    """How the defect samples stand among the normal ones: everything that the metrics depend on."""

    scores: Tensor
    """(P,) scores of the defect samples, sorted upwards."""
    below: Tensor
    """(P,) int64: how many normal samples score less than each."""
    up_to: Tensor
    """(P,) int64: how many score less or the same."""
    normal: int
    """How many normal samples there are."""

    def auroc(self) -> float:
        """Return the probability that a defect outranks a normal sample, ties counted half; nan if a class is empty.

        Reference: Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.
        """
        if not self.both_classes():
            return float("nan")
        wins = self.below.sum(dtype=torch.float64) + self.up_to.sum(dtype=torch.float64)
        return float(wins / 2 / (len(self.scores) * self.normal))

    def average_precision(self) -> float:
        """Return the step-wise sum of precision over the steps of recall; nan if a class is empty.

        Every defect sample adds the precision at the threshold that equals its own score, so tied samples share a step.
        """
        if not self.both_classes():
            return float("nan")
        false = self.normal - self.below
        true = len(self.scores) - torch.searchsorted(self.scores, self.scores)
        return float((true.double() / (true + false)).mean())

    def both_classes(self) -> bool:
        """Return whether there is a defect sample and a normal one."""
        return len(self.scores) > 0 and self.normal > 0


class Ranking(NamedTuple):
    """The scores of both classes, each sorted upwards, on the device of the scores."""

    positives: Tensor
    """(P,) sorted scores of the defect samples."""
    negatives: Tensor
    """(N,) sorted scores of the normal samples."""

    def standing(self) -> Standing:
        """Return how the defect samples stand among the normal ones."""
        return Standing(self.positives, *lookup(self.negatives, self.positives), len(self.negatives))


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
    return Ranking(ordered(select(values, is_defect)), ordered(select(values, ~is_defect)))


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
    return rank(scores, labels).standing().auroc()


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
    return rank(scores, labels).standing().average_precision()


def ordered(values: Tensor) -> Tensor:
    """Return ``values`` (N,) sorted upwards; on the CPU by numpy's vectorised sort, 10 times faster than torch's.

    Raises:
        ValueError: If a score is NaN, which has no rank.
    """
    in_order = torch.from_numpy(np.sort(values.numpy())) if values.device.type == "cpu" else values.sort().values
    if len(in_order) and bool(in_order[-1].isnan()):  # a sort puts NaN last
        raise ValueError("A score is NaN, so it has no rank. Find out where it comes from; it is not replaced.")
    return in_order
