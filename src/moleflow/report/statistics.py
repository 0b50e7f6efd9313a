"""Whether a difference between two configurations is more than the dice: seeds against seeds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev, variance
from typing import Literal

from scipy.special import stdtrit

Verdict = Literal["beyond the noise", "inside the noise", "noise unknown", "identical"]

BySeed = Mapping[int, float]
"""A metric by seed."""


@dataclass(frozen=True)
class Noise:
    """Spread of a metric over seeds, pooled over all configurations that have several.

    Attributes:
        sd: Standard deviation between seeds of one configuration; None where no configuration has two seeds.
        freedom: Degrees of freedom behind it.
    """

    sd: float | None
    freedom: int


@dataclass(frozen=True)
class Difference:
    """``b - a`` and what is known about it.

    Attributes:
        value: Difference of the means (of the common seeds, where there are two).
        interval: Half width of the 95 % confidence interval; None if the noise is unknown.
        verdict: The word for it.
        how: What the noise was taken from.
    """

    value: float
    interval: float | None
    verdict: Verdict
    how: str


def pooled_noise(groups: Iterable[BySeed]) -> Noise:
    """Return the spread between seeds over all groups of seeds."""
    repeated = [list(group.values()) for group in groups if len(group) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if not freedom:
        return Noise(None, 0)
    return Noise(math.sqrt(sum(variance(values) * (len(values) - 1) for values in repeated) / freedom), freedom)


def compare(a: BySeed, b: BySeed, noise: Noise) -> Difference:
    """Return how ``b`` differs from ``a``.

    Seeds that both have are compared pair by pair (paired t); else both spreads count (Welch); a side with one seed
    borrows the spread of the other configurations.

    Args:
        a: The metric of one configuration by seed; at least one.
        b: The same of the other.
        noise: What to borrow.
    """
    common = sorted(a.keys() & b.keys())
    if len(common) > 1:
        differences = [b[seed] - a[seed] for seed in common]
        error = stdev(differences) / math.sqrt(len(common))
        return _difference(fmean(differences), error, len(common) - 1, f"{len(common)} common seeds")
    value = fmean(b.values()) - fmean(a.values())
    if len(a) > 1 and len(b) > 1:
        parts = [variance(side.values()) / len(side) for side in (a, b)]
        weights = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True))
        freedom = sum(parts) ** 2 / weights if weights else len(a) + len(b) - 2
        return _difference(value, math.sqrt(sum(parts)), freedom, f"{len(a)} and {len(b)} seeds")
    if noise.sd is None:
        return Difference(
            value, None, "noise unknown" if value else "identical", "one seed each, none repeated anywhere"
        )
    error = noise.sd * math.sqrt(1 / len(a) + 1 / len(b))
    return _difference(value, error, noise.freedom, f"{len(a)} and {len(b)} seeds, noise of the other configurations")


def seeds_needed(difference: float, sd: float) -> int:
    """Return how many seeds a side would show a difference with 80 % power at the 5 % level (normal approximation)."""
    return max(2, math.ceil(2 * (1.96 + 0.84) ** 2 * (sd / difference) ** 2))


def _difference(value: float, error: float, freedom: float, how: str) -> Difference:
    value = 0.0 if abs(value) < 1e-12 else value  # what rounding leaves of equal numbers
    interval = float(stdtrit(freedom, 0.975)) * error
    if value == 0:
        return Difference(value, interval, "identical" if error == 0 else "inside the noise", how)
    return Difference(value, interval, "beyond the noise" if abs(value) > interval else "inside the noise", how)
