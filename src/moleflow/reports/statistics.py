"""Confidence intervals of differences between configurations, over seeds.

``scipy.stats`` has the same tests, but its import takes longer than that of the whole report.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev, variance
from typing import Literal

from scipy.special import stdtr, stdtrit

Verdict = Literal["significant", "not significant", "untested", "identical"]

_LEVEL = 0.05


@dataclass(frozen=True)
class Noise:
    """Standard deviation of a metric over seeds, pooled over all configurations with several seeds.

    Attributes:
        std: The standard deviation; None if no configuration has two seeds.
        degrees_of_freedom: Its degrees of freedom.
    """

    std: float | None
    degrees_of_freedom: int


@dataclass(frozen=True)
class Difference:
    """Difference ``b - a`` of two configurations.

    Attributes:
        value: Difference of the means (of the common seeds, if there are at least two).
        interval: Half width of the 95 % confidence interval; None if it cannot be estimated.
        verdict: ``significant`` if ``p_value`` is below 0.05, else ``not significant``; ``untested`` without an
            interval, ``identical`` for equal values.
        test: Test and sample sizes.
        p_value: Two-sided p-value of the test, after :func:`holm` the adjusted one; None if ``untested``.
    """

    value: float
    interval: float | None
    verdict: Verdict
    test: str
    p_value: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant."""
        return self.verdict == "significant"


def pooled_noise(samples: Iterable[Mapping[int, float]]) -> Noise:
    """Return the standard deviation over seeds, pooled over several samples.

    Args:
        samples: A metric by seed, one mapping per configuration.
    """
    repeated = [list(sample.values()) for sample in samples if len(sample) > 1]
    degrees = sum(len(values) - 1 for values in repeated)
    if not degrees:
        return Noise(None, 0)
    return Noise(math.sqrt(sum(variance(values) * (len(values) - 1) for values in repeated) / degrees), degrees)


def compare(a: Mapping[int, float], b: Mapping[int, float], noise: Noise) -> Difference:
    """Return the difference ``b - a`` of two configurations with its 95 % confidence interval.

    With at least two common seeds it is a paired t-test on these. Otherwise it is Welch's t-test if both have several
    seeds, else a t-test with the pooled standard deviation of the other configurations.

    Args:
        a: The metric of one configuration by seed; at least one.
        b: The metric of the other configuration by seed; at least one.
        noise: The pooled standard deviation.
    """
    common = sorted(a.keys() & b.keys())
    if len(common) > 1:
        differences = [b[seed] - a[seed] for seed in common]
        error = stdev(differences) / math.sqrt(len(common))
        return t_test(fmean(differences), error, len(common) - 1, f"paired t-test, {len(common)} common seeds")
    value = fmean(b.values()) - fmean(a.values())
    sizes = f"{len(a)} and {len(b)} seeds"
    if len(a) > 1 and len(b) > 1:
        squared_errors = [variance(sample.values()) / len(sample) for sample in (a, b)]
        weights = sum(error**2 / (len(sample) - 1) for error, sample in zip(squared_errors, (a, b), strict=True))
        degrees = sum(squared_errors) ** 2 / weights if weights else len(a) + len(b) - 2
        return t_test(value, math.sqrt(sum(squared_errors)), degrees, f"Welch's t-test, {sizes}")
    if noise.std is None:
        return Difference(value, None, "untested" if value else "identical", "one seed in every configuration")
    error = noise.std * math.sqrt(1 / len(a) + 1 / len(b))
    return t_test(value, error, noise.degrees_of_freedom, f"t-test, {sizes}, pooled standard deviation")


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences with p-values and verdicts adjusted for the number of tests among them.

    The step-down procedure of Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6, 1979: with a probability of 95 % no verdict of the family is wrongly ``significant``. The intervals
    are not adjusted.

    Args:
        differences: One family of differences; untested ones do not count.
    """
    tested = [i for i, difference in enumerate(differences) if difference.p_value is not None]
    adjusted = list(differences)
    highest = 0.0
    for rank, i in enumerate(sorted(tested, key=lambda i: differences[i].p_value or 0.0)):
        highest = max(highest, min(1.0, (differences[i].p_value or 0.0) * (len(tested) - rank)))
        if differences[i].verdict != "identical":
            adjusted[i] = replace(differences[i], p_value=highest, verdict=_verdict(highest))
    return adjusted


def prediction_interval(values: Collection[float], noise: Noise) -> float | None:
    """Return the half width of the 95 % interval in which the metric of one more seed is expected.

    Args:
        values: The metric of the seeds so far; at least one.
        noise: The pooled standard deviation, which is used for fewer than three seeds unless their own is larger.

    Returns:
        The half width; None with a single seed and without pooled standard deviation.
    """
    own = stdev(values) if len(values) > 1 else 0.0
    if len(values) > 2:
        std, degrees = own, len(values) - 1
    elif noise.std is not None:
        std, degrees = max(own, noise.std), noise.degrees_of_freedom
    else:
        return None
    return float(stdtrit(degrees, 0.975)) * std * math.sqrt(1 + 1 / len(values))


def seeds_needed(difference: float, std: float) -> int:
    """Return the number of seeds per configuration that detects a difference with 80 % power at the 5 % level.

    Normal approximation for two samples, at least 2.

    Args:
        difference: The true difference of the means.
        std: Standard deviation over seeds.
    """
    return max(2, math.ceil(2 * (1.96 + 0.84) ** 2 * (std / difference) ** 2))


def t_test(value: float, standard_error: float, degrees_of_freedom: float, test: str) -> Difference:
    """Return a difference with its 95 % confidence interval from Student's t distribution.

    Args:
        value: The difference of the means.
        standard_error: Its standard error.
        degrees_of_freedom: Of the standard error.
        test: Description of test and sample sizes.
    """
    value = 0.0 if abs(value) < 1e-12 else value  # rounding error of equal values
    interval = float(stdtrit(degrees_of_freedom, 0.975)) * standard_error
    if standard_error == 0:
        p_value = 1.0 if value == 0 else 0.0
        return Difference(value, interval, "identical" if value == 0 else "significant", test, p_value)
    p_value = 2 * float(stdtr(degrees_of_freedom, -abs(value) / standard_error))
    return Difference(value, interval, _verdict(p_value), test, p_value)


def _verdict(p_value: float) -> Verdict:
    return "significant" if p_value < _LEVEL else "not significant"
