"""Thresholds by false-alarm rate."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chi2

from helpers.program import run_command
from moleflow.scoring.thresholds import (
    Threshold,
    describe_rate,
    images_for_rate,
    pooled_thresholds,
    quantile_of_new_scores,
    threshold_at_rate,
)
from moleflow.utils.errors import UserError


@pytest.mark.parametrize("rate", [0.002, 0.01, 0.02])
@pytest.mark.parametrize("count", [10, 16, 31, 80])
def test_new_scores_of_a_weibull_tail_exceed_the_threshold_at_the_rate(count: int, rate: float) -> None:
    """Within the error of 4,000 data sets; below the rate where the second largest score is the threshold."""
    largest = max(5, round(0.3 * count))
    tails = np.random.default_rng(count).weibull(1.25, size=(4000, largest))
    below = np.linspace(-1, 0, count - largest)
    thresholds = np.array([quantile_of_new_scores(np.sort(np.concatenate((below, row))), rate) for row in tails])
    exceeding = (largest + 1) / (count + 1) * np.exp(-(thresholds**1.25))
    extrapolated = thresholds > np.sort(tails, axis=1)[:, -2]
    assert extrapolated.mean() > 0.5
    mean, error = exceeding.mean(), exceeding.std() / math.sqrt(len(tails))
    assert mean < rate + 4 * error
    assert mean > rate - 4 * error - (~extrapolated).mean() * rate


@pytest.mark.parametrize(("rate", "lowest", "largest"), [(0.01, 0.7, 1.0), (0.05, 4.1, 5.1)])
@pytest.mark.parametrize("count", [10, 16, 31, 80, 150])
def test_new_values_of_a_normal_distribution_exceed_the_threshold_at_the_rate(
    count: int, rate: float, lowest: float, largest: float
) -> None:
    from scipy.stats import norm

    draws = np.random.default_rng(count).normal(size=(4000, count))
    exceeding = [100 * norm.sf(quantile_of_new_scores(np.sort(row), rate)) for row in draws]
    assert lowest <= round(np.mean(exceeding), 1) <= largest


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
    # Rounded, because differences that vanish when the values are shifted change the tail.
    st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), min_size=2, max_size=60),
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


def test_pooled_thresholds_are_the_threshold_of_all_in_units_of_each_median() -> None:
    draw = np.random.default_rng(0)
    values = {name: scale * draw.gamma(9, size=count) for name, scale, count in (("a", 1.0, 16), ("b", 50.0, 31))}
    thresholds = pooled_thresholds(values, 0.01)
    medians = {name: float(np.median(own)) for name, own in values.items()}
    common = threshold_at_rate(np.concatenate([values[name] / medians[name] for name in values]), 0.01)
    assert common.value is not None
    for name, threshold in thresholds.items():
        assert threshold.value == pytest.approx(common.value * medians[name])
        assert threshold.normalize(medians[name]) == pytest.approx(common.normalize(1.0))
    alone = pooled_thresholds({"a": values["a"]}, 0.01)["a"]
    assert alone.value == pytest.approx(threshold_at_rate(values["a"], 0.01).value)


@pytest.mark.parametrize("count", [8, 16])
def test_pooled_thresholds_hold_the_rate_and_vary_less_than_those_of_few_images(count: int) -> None:
    draw = np.random.default_rng(count)
    single, pooled = [], []
    for _ in range(500):
        values = {str(i): 10.0 ** (i - 3) * draw.chisquare(40, size=count) ** 0.5 for i in range(6)}
        thresholds = pooled_thresholds(values, 0.01)
        single.append(threshold_at_rate(values["3"], 0.01).value)
        pooled.append(thresholds["3"].value)
    rate = np.mean([chi2.sf(float(value) ** 2, 40) for value in pooled])
    assert 0.003 < rate < 0.02
    assert np.std(pooled) < np.std(single) / 2


def test_images_that_determine_no_distribution_have_the_threshold_of_the_others_or_none() -> None:
    values = {"many": np.arange(1.0, 20.0), "two": np.array([4.0, 6.0]), "one": np.array([3.0]), "none": np.empty(0)}
    thresholds = pooled_thresholds(values, 0.05)
    assert thresholds["two"].value == pytest.approx(5 / 10 * (thresholds["many"].value or 0))
    assert thresholds["one"].value is thresholds["none"].value is None
    for no_spread in ({"a": np.array([1.0, 2.0])}, {"a": np.zeros(5)}, {"a": np.ones(5), "b": 2 * np.ones(5)}, {}):
        assert all(threshold.value is None for threshold in pooled_thresholds(no_spread, 0.05).values())
    with pytest.raises(UserError, match="not finite"):
        pooled_thresholds({"a": np.array([1.0, 2.0, math.inf])}, 0.05)
