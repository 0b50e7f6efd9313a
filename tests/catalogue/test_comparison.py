"""Tests of the rule that compares measured metrics with recorded ones."""

import math

import pytest

from moleflow.catalogue.comparison import compare_with_record
from moleflow.catalogue.records import NOISE


def test_several_seeds_use_their_own_standard_deviation() -> None:
    values = [0.50, 0.52]
    comparison = compare_with_record(values, 0.54, group="report", pooled_std=1.0)
    assert comparison.tolerance == pytest.approx(2 * math.sqrt(0.0002))
    assert comparison.difference == pytest.approx(-0.03)
    assert comparison.verdict == "worse"


def test_one_seed_uses_the_pooled_standard_deviation_then_the_recorded_one() -> None:
    assert compare_with_record([0.5], 0.54, group="report", pooled_std=0.03).tolerance == 0.06
    assert compare_with_record([0.5], 0.54, group="report").tolerance == 2 * NOISE["report"]
    assert compare_with_record([0.5], 0.54, group="visa").tolerance == 0.017


def test_without_any_standard_deviation_there_is_no_tolerance() -> None:
    assert compare_with_record([0.5], 0.54).verdict == "no tolerance"
    assert compare_with_record([0.5], 0.54, "image_auroc", "report").verdict == "no tolerance"


@pytest.mark.parametrize(
    ("value", "difference", "verdict"),
    [(0.54, 0.0, "match"), (0.556, 0.006, "match"), (0.56, 0.01, "better"), (0.52, -0.01, "worse")],
)
def test_ranges_are_compared_at_their_nearest_end(value: float, difference: float, verdict: str) -> None:
    comparison = compare_with_record([value], (0.53, 0.55), group="report")
    assert comparison.difference == pytest.approx(difference)
    assert comparison.verdict == verdict
