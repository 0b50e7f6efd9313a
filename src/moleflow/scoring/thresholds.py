"""Thresholds by false-alarm rate, from the scores of normal images.

A threshold is a quantile of the scores of new normal images. It is estimated from n normal images that were scored as
new ones: training images without their own patches and statistics (leave-one-out), or images for calibration.

Where n suffices, the threshold is the conformal quantile, the r-th smallest score with r = ceil((n + 1) (1 - rate)):
a new image is above it with a probability of at most ``rate`` for any distribution, if all images are
exchangeable (Vovk et al., "Algorithmic Learning in a Random World", 2005, section 2.2). It is used up to r = n - 1,
which requires n >= 2 / rate - 1 images: the largest score of all is often that of one unusual image.

With fewer images the tail is extrapolated from the k largest scores. The power 1.25 of their excesses over the next
smaller score u is fitted by an exponential distribution (a Weibull tail of shape 1.25), of which only the m smallest
values e_1 <= ... <= e_m are used, so that the k - m largest scores may be outliers: with censoring of this kind
T = e_1 + ... + e_m + (k - m) e_m has a gamma distribution of shape m (Epstein and Sobel, "Life Testing", JASA 1953).
For such a tail follows

    P(score > u + (c T)^(1/1.25)) = (k + 1) / (n + 1) (1 + c)^-m.

The uncertainty of T is part of the equation, so that the rate holds for a few images, too. With the shape 1.25 it also
holds for a normal distribution: by simulation with 10 to 150 images, 0.7 to 1.0 % of new values are above the threshold
of 1 %, and 4.1 to 5.1 % above that of 5 %. An exponential distribution, whose tail is heavier, has up to 2.5 and 7.5 %.
"""

from __future__ import annotations  # the command line imports the rates without torch

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moleflow.utils.errors import UserError, check_range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FALSE_ALARM_RATE = 0.01
"""Default share of normal images whose score is above the score threshold."""

UNKNOWN_RATE = 0.005
"""Default share of images of a trained category that are classified as unknown.

It is smaller than the false-alarm rate because a large defect moves the features of an image as well, and other
categories are far away.
"""

_MIN_EXCESSES, _SHARE_OF_EXCESSES = 5, 0.3  # of the n scores, in the estimate of the tail
_SHARE_WITHOUT_OUTLIERS = 0.75  # of the excesses
_TAIL_SHAPE = 1.25
_NORMAL_LEVEL = 0.05  # normalized score of a typical normal image
_MIN_SCALE = 1e-30  # smaller ones are 0 in float32, in which maps are normalized


@dataclass(frozen=True)
class Threshold:
    """A threshold, and the scale on which scores are normalized.

    Attributes:
        value: Scores above it are anomalous; None if the normal scores determine no threshold.
        scale: Unit of the normalization, above 0.
    """

    value: float | None
    scale: float

    def normalize(self, score: float) -> float | None:
        """Return a score as a value from 0 to 1: 0.5 at the threshold, 0.05 at the median of normal images.

        The normalized score is the logistic function of (score - threshold) / scale.

        Returns:
            The value, or None without a threshold.
        """
        if self.value is None:
            return None
        exponent = (self.value - score) / self.scale
        return 1 / (1 + math.exp(min(exponent, 700.0)))

    def at(self, value: float) -> Threshold:
        """Return a threshold of the same scale at another value."""
        return Threshold(value, self.scale)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of one expert.

    Attributes:
        score: Threshold of the image score: images above it are defective.
        pixel: Threshold of the anomaly map: pixels above it belong to a defect. A map of a normal image exceeds it
            anywhere with the false-alarm rate.
        distance: Threshold of the router distance: images above it are of an unknown category.
        normal_scores: Image scores (n,) of the normal images from which the thresholds were computed, ascending.
        rate: False-alarm rate of ``score`` and ``pixel``; None if they were set or chosen by labeled defects.
        source: Normal images of ``normal_scores``: ``calibration``; ``validation`` images, or training images by
            cross-validation; ``training`` images, each scored without itself; ``fitted``, training images that the
            expert was fitted to, so that thresholds are too low. ``manual`` if the score threshold was set.
    """

    score: Threshold
    pixel: Threshold
    distance: Threshold
    normal_scores: Sequence[float]
    rate: float | None = FALSE_ALARM_RATE
    source: str = "training"


def threshold_at_rate(scores: NDArray[np.floating], rate: float) -> Threshold:
    """Return the threshold that new normal images exceed with a given rate.

    Args:
        scores: (n,) scores of normal images, each scored as a new image.
        rate: Share of new normal images above the threshold, in (0, 1).

    Returns:
        The threshold; its value is None with fewer than two images, or if all scores are equal.

    Raises:
        UserError: If the rate is not allowed, or a score is not finite: the statistics are damaged.
    """
    import numpy as np

    check_range("rate", rate, 0, 1, low_open=True, high_open=True)
    values = np.sort(np.asarray(scores, dtype=np.float64))
    if not np.isfinite(values).all():
        raise UserError("A normal score is not finite, so no threshold can be computed. Retrain or calibrate again.")
    if len(values) < 2 or values[0] == values[-1]:
        return Threshold(None, 1.0)
    value = quantile_of_new_scores(values, rate)
    return Threshold(value, _scale(values, value))


def pooled_thresholds(values: Mapping[str, NDArray[np.floating]], rate: float) -> dict[str, Threshold]:
    """Return the threshold of each expert for values that have the same distribution up to their scale.

    The values of an expert are divided by their median, and the threshold in this unit is that of the values of all
    experts. A few images per expert thus determine it together.

    Args:
        values: (n,) positive values of new images by expert. Fewer than three determine no distribution, but a median.
        rate: Share of new images above the threshold, in (0, 1).

    Returns:
        The thresholds by expert; the value is None for an expert with fewer than two images or a median of 0, and for
        all experts if all values are equal.

    Raises:
        UserError: If the rate is not allowed, or a value is not finite: the statistics are damaged.
    """
    import numpy as np

    medians = {name: float(np.median(own)) for name, own in values.items() if len(own) > 1}
    pool = [values[name] / median for name, median in medians.items() if median > 0 and len(values[name]) > 2]
    common = threshold_at_rate(np.concatenate(pool or [np.empty(0)]), rate)
    thresholds = dict.fromkeys(values, Threshold(None, 1.0))
    if common.value is not None:
        for name, median in medians.items():
            if median > 0:
                thresholds[name] = Threshold(common.value * median, max(common.scale * median, _MIN_SCALE))
    return thresholds


def quantile_of_new_scores(scores: NDArray[np.floating], rate: float) -> float:
    """Return the value that a new score exceeds with a given probability.

    Args:
        scores: (n,) at least two finite scores, ascending.
        rate: The probability, in (0, 1).
    """
    count = len(scores)
    rank = math.ceil((count + 1) * (1 - rate) - 1e-9)
    if rank < count:
        return float(scores[max(rank, 1) - 1])
    excesses = min(count - 1, max(_MIN_EXCESSES, round(_SHARE_OF_EXCESSES * count)))
    used = math.ceil(_SHARE_WITHOUT_OUTLIERS * excesses)
    start = float(scores[count - excesses - 1])
    values = (scores[count - excesses :] - start) ** _TAIL_SHAPE
    total = float(values[:used].sum() + (excesses - used) * values[used - 1])
    if total == 0:  # equal scores and outliers
        return float(scores[-1])
    factor = math.expm1(max(0.0, math.log((excesses + 1) / (count + 1) / rate)) / used)
    excess = float((factor * total) ** (1 / _TAIL_SHAPE))
    return max(float(scores[-2]), start + excess)  # a lower rate has no lower threshold


def images_for_rate(rate: float) -> int:
    """Return the number of normal images from which a rate is guaranteed without assumptions on the scores."""
    return math.ceil(2 / rate - 1 - 1e-9)


def describe_rate(count: int, rate: float) -> str:
    """Return in one sentence which false-alarm rate a number of normal images can promise.

    Args:
        count: Number of normal images.
        rate: The rate of the threshold.
    """
    required = images_for_rate(rate)
    if count >= required:
        return (
            f"{count} normal images guarantee a false-alarm rate of at most {rate:.2%} on average, if new images "
            "resemble them."
        )
    return (
        f"{count} normal images guarantee a false-alarm rate of {2 / (count + 1):.1%} at best; {rate:.2%} is "
        f"extrapolated from their largest scores. {required} images would guarantee it."
    )


def _scale(values: NDArray[np.floating], threshold: float) -> float:
    """Return the scale at which the median of normal scores is normalized to 0.05; its spread if that is undefined."""
    import numpy as np

    distance = threshold - float(np.median(values))
    if distance <= 0:
        distance = float(values[-1] - values[0])
    return max(distance / math.log(1 / _NORMAL_LEVEL - 1), _MIN_SCALE)
