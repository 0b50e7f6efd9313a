"""Comparison of the scores of new images with those of the normal images from which a threshold was computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MIN_IMAGES = 20
"""Number of images from which scores are compared."""

_SIGNIFICANCE = 0.01
_LOW_SHARE = 0.25  # of new images at or below the normal median, if half of them are defective and none has drifted


@dataclass(frozen=True)
class ScoreComparison:
    """Scores of new images beside those of normal images.

    Attributes:
        count: Number n of new images.
        above: Number of them above the threshold.
        rate: False-alarm rate of the threshold; None if it was not computed from a rate.
        above_p: Probability of as many images above the threshold if all are normal; None without a rate.
        low: Number of new images at or below the median of the normal scores.
        drift_p: Probability of as few such images if at least half of the new images are normal and resemble the
            normal images.
    """

    count: int
    above: int
    rate: float | None
    above_p: float | None
    low: int
    drift_p: float

    @property
    def exceeds_rate(self) -> bool:
        """Whether more images are above the threshold than normal images would be."""
        return self.count >= MIN_IMAGES and self.above_p is not None and self.above_p < _SIGNIFICANCE

    @property
    def drifted(self) -> bool:
        """Whether normal images no longer resemble those of the threshold, even if half of the images are defective."""
        return self.count >= MIN_IMAGES and self.drift_p < _SIGNIFICANCE


def compare_scores(
    scores: Sequence[float], normal_scores: Sequence[float], threshold: float, rate: float | None
) -> ScoreComparison:
    """Compare the scores of new images with those of normal images.

    Defects raise some scores and drift raises all of them. Among new images of which at least half are normal, at
    least a quarter is expected at or below the median of the normal scores. Drift is therefore found by an exact
    binomial test of this share, which defects alone do not fail, and not by a test of the whole distribution.

    Args:
        scores: Scores of the new images under one expert.
        normal_scores: Scores of the normal images from which the threshold was computed.
        threshold: The score threshold.
        rate: Its false-alarm rate; None if it was set by hand or chosen by labeled defects.
    """
    from scipy.stats import binom  # a second to import, and needed only here

    count = len(scores)
    above = sum(score > threshold for score in scores)
    center = median(normal_scores)
    low = sum(score <= center for score in scores)
    above_p = None if rate is None else float(binom.sf(above - 1, count, rate))
    return ScoreComparison(count, above, rate, above_p, low, float(binom.cdf(low, count, _LOW_SHARE)))
