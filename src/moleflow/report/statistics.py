"""Confidence intervals of differences between configurations, over seeds.

``scipy.stats`` has the same tests, but its import takes longer than that of the whole report.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev, variance
from typing import Literal

from scipy.special import stdtrit

Verdict = Literal["significant", "not significant", "untested", "identical"]


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
        verdict: ``significant`` if the interval excludes 0, ``not significant`` if it does not, ``untested`` without
            an interval, ``identical`` for equal values.
        test: Test and sample sizes.
    """

    value: float
    interval: float | None
    verdict: Verdict
    test: str

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
    if value == 0:
        return Difference(value, interval, "identical" if standard_error == 0 else "not significant", test)
    return Difference(value, interval, "significant" if abs(value) > interval else "not significant", test)
