"""Comparison of measured metrics with recorded ones: the one rule for the catalogue and the report."""

from collections.abc import Collection
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from moleflow.catalogue.records import DEFAULT_NOISE, NOISE

TOLERANCE_RULE = (
    "The tolerance is two standard deviations over seeds: of the configuration's own seeds if it has several, else (in "
    "the report) pooled over the compared configurations that have several, else, for pixel AP, the one recorded for "
    f"the experiment's group: {2 * NOISE['report']:g} for report and scenario, {2 * DEFAULT_NOISE:g} for all others."
)
"""Description of :func:`compare_with_record`, shown beside its verdicts."""

RecordVerdict = Literal["match", "better", "worse", "no tolerance"]

_ROUNDING = 1e-9  # so that a difference equal to the tolerance is a match


@dataclass(frozen=True)
class RecordComparison:
    """A measured metric compared with a recorded one.

    Attributes:
        difference: Measured mean minus recorded value; 0 inside a recorded range.
        tolerance: Two standard deviations over seeds; None if no standard deviation is known.
        verdict: ``match`` within the tolerance, else ``better`` or ``worse``; ``no tolerance`` without one.
    """

    difference: float
    tolerance: float | None
    verdict: RecordVerdict


def compare_with_record(
    values: Collection[float],
    record: float | tuple[float, float],
    metric: str = "pixel_ap",
    group: str | None = None,
    pooled_std: float | None = None,
) -> RecordComparison:
    """Compare a metric of one configuration with its recorded value or range.

    Args:
        values: The measured metric, one value per seed; at least one.
        record: The recorded value, or the lowest and highest one.
        metric: Name of the metric. Recorded standard deviations exist for ``pixel_ap`` only.
        group: Group of the recorded experiment, see :data:`~moleflow.catalogue.records.NOISE`; None if the value was
            not recorded with the first implementation.
        pooled_std: Standard deviation over seeds, pooled over the compared configurations; None if unknown.
    """
    low, high = record if isinstance(record, tuple) else (record, record)
    mean = fmean(values)
    difference = min(mean - low, 0.0) + max(mean - high, 0.0)
    if len(values) > 1:
        std: float | None = stdev(values)
    elif pooled_std is not None:
        std = pooled_std
    else:
        std = NOISE.get(group, DEFAULT_NOISE) if group is not None and metric == "pixel_ap" else None
    if std is None:
        return RecordComparison(difference, None, "no tolerance")
    if abs(difference) <= 2 * std + _ROUNDING:
        return RecordComparison(difference, 2 * std, "match")
    return RecordComparison(difference, 2 * std, "better" if difference > 0 else "worse")
