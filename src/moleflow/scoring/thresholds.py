"""Thresholds of an expert's image scores and router distances, from its training images."""

from __future__ import annotations  # the command line imports SCORE_DEVIATIONS without torch

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SCORE_DEVIATIONS = 3.0
"""Standard deviations between the mean training score and the score threshold."""

_DISTANCE_DEVIATIONS = 6.0
"""Standard deviations between the mean training distance and the distance threshold.

Other categories are so far away that the threshold can be high, and it has to be, because large defects move an image,
too. ``benchmarks/unknown.py`` on the generated products: with 3 deviations 56 % of the defects were classified as
unknown, with 6 deviations 8 %. With 6, no normal validation image was unknown, and all images of other categories were.
"""


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of one expert.

    Attributes:
        mean_score: Mean image score of the training images.
        score: Images with a higher score are defective.
        distance: Images with a larger router distance are of an unknown category.
    """

    mean_score: float
    score: float
    distance: float


def thresholds(scores: Tensor, distances: Tensor, deviations: float = SCORE_DEVIATIONS) -> Thresholds:
    """Return the thresholds of an expert, each some standard deviations above the mean over its training images.

    Args:
        scores: (N,) image scores of the expert's training images.
        distances: (N,) their leave-one-out distances to the expert. Plain distances are too small: an image is nearer
            to a mean and covariance that were computed with it than a new image of the same category.
        deviations: Number of standard deviations for the score. For the distance it is always 6.

    Returns:
        The thresholds. With a single image, whose spread is undefined, both are infinite.
    """
    scores = scores.double()
    if len(scores) < 2:
        return Thresholds(float(scores.mean()), math.inf, math.inf)
    return Thresholds(
        float(scores.mean()),
        float(scores.mean() + deviations * scores.std()),
        float(distances.mean() + _DISTANCE_DEVIATIONS * distances.std()),
    )
