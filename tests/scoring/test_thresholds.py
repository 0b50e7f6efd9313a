"""Thresholds by false-alarm rate."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers.program import run_command
from moleflow.scoring.thresholds import (
    Threshold,
    describe_rate,
    images_for_rate,
    quantile_of_new_scores,
    threshold_at_rate,
)
from moleflow.utils.errors import UserError


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("count", [10, 16, 31, 80, 150])
def test_new_scores_of_an_exponential_tail_exceed_the_threshold_at_the_rate(count: int, rate: float) -> None:
    """Within the error of 4,000 data sets; below the rate by at most one part in n + 1.

    A conformal quantile is below it by its rank, and an extrapolated value where it is the second largest score.
    """
    draws = np.random.default_rng(count).exponential(size=(4000, count))
    exceeding = [math.exp(-quantile_of_new_scores(np.sort(row), rate)) for row in draws]
    mean, error = np.mean(exceeding), np.std(exceeding) / math.sqrt(len(draws))
    assert mean < rate + 4 * error
    assert mean > rate - 4 * error - (1 / (count + 1) if rate > 0.5 / (count + 1) else 0)


@pytest.mark.parametrize("count", [16, 40])
def test_normal_scores_exceed_the_threshold_at_most_at_the_rate(count: int) -> None:
    from scipy.stats import norm

    draws = np.random.default_rng(count).normal(size=(2000, count))
    assert 0.001 < np.mean([norm.sf(quantile_of_new_scores(np.sort(row), 0.01)) for row in draws]) < 0.01


def test_threshold_is_the_conformal_quantile_where_images_suffice() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 200.0))
    assert images_for_rate(0.01) == 199
    assert threshold_at_rate(scores, 0.01).value == 198
    assert threshold_at_rate(scores, 0.05).value == 190


@given(st.integers(10, 60), st.floats(0.002, 0.05), st.floats(1, 1e6))
def test_one_outlier_does_not_move_the_extrapolated_threshold(count: int, rate: float, factor: float) -> None:
    scores = np.sort(np.random.default_rng(count).exponential(size=count))
    assume(count < images_for_rate(rate))
    expected = threshold_at_rate(scores, rate).value
    scores[-1] *= factor
    assert threshold_at_rate(scores, rate).value == expected


def test_equal_scores_and_outliers_have_the_largest_score_as_threshold() -> None:
    assert threshold_at_rate(np.array([0.0] * 9 + [1.0]), 0.01).value == 1


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60),
    st.floats(-100, 100),
    st.floats(0.01, 100),
    st.floats(0.002, 0.5),
)
def test_threshold_follows_shift_and_scale_and_falls_with_the_rate(
    values: list[float], shift: float, factor: float, rate: float
) -> None:
    scores = np.array(values)
    first = threshold_at_rate(scores, rate)
    if first.value is None:
        assert len(set(values)) == 1
        return
    size = max(map(abs, values)) * factor + abs(shift) + abs(first.value) * factor
    moved = threshold_at_rate(scores * factor + shift, rate)
    if moved.value is not None:
        assert moved.value == pytest.approx(first.value * factor + shift, rel=1e-6, abs=1e-9 * size + 1e-9)
    lower = threshold_at_rate(scores, rate / 2).value
    assert lower is not None
    assert lower >= first.value - 1e-9 * size


@pytest.mark.parametrize("scores", [[], [3.0], [3.0, 3.0, 3.0]])
def test_scores_without_a_spread_determine_no_threshold(scores: list[float]) -> None:
    assert threshold_at_rate(np.array(scores), 0.01).value is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_damage(value: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        threshold_at_rate(np.array([1.0, value, 2.0]), 0.01)


def test_normalized_score_is_half_at_the_threshold_and_low_at_the_median() -> None:
    scores = np.random.default_rng(0).normal(size=41)
    threshold = threshold_at_rate(scores, 0.01)
    assert threshold.value is not None
    normalized = [threshold.normalize(x) for x in (threshold.value, float(np.median(scores)), -1e300, 1e300)]
    assert normalized == pytest.approx([0.5, 0.05, 0, 1])
    assert Threshold(None, 1.0).normalize(3.0) is None


def test_description_names_the_number_of_images_that_would_suffice() -> None:
    assert "199 images would guarantee it" in describe_rate(31, 0.01)
    assert describe_rate(199, 0.01).startswith("199 normal images guarantee a false-alarm rate of at most 1.00%")


def test_the_default_rates_are_importable_without_torch() -> None:
    code = "import sys, moleflow.scoring.thresholds; sys.exit('torch' in sys.modules)"
    result = run_command("-c", code)
    assert result.returncode == 0, result.stderr
