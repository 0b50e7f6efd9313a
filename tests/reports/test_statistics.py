"""Tests of differences between configurations against SciPy's tests and under the null hypothesis."""

import numpy as np
import pytest
from scipy import stats

from moleflow.reports.statistics import (
    Difference,
    Noise,
    compare,
    holm,
    pooled_noise,
    prediction_interval,
    seeds_needed,
)


def test_common_seeds_use_the_paired_t_test() -> None:
    a, b = {0: 0.5, 1: 0.52, 2: 0.49}, {0: 0.53, 1: 0.54, 2: 0.53, 7: 0.9}
    difference = compare(a, b, Noise(None, 0))
    expected = stats.ttest_rel([0.53, 0.54, 0.53], [0.5, 0.52, 0.49]).confidence_interval(0.95)
    assert difference.interval is not None
    assert difference.value - difference.interval == pytest.approx(expected.low, abs=1e-9)
    assert difference.value + difference.interval == pytest.approx(expected.high, abs=1e-9)
    assert difference.verdict == ("significant" if expected.low > 0 else "not significant")


def test_different_seeds_use_welchs_t_test() -> None:
    a, b = {0: 0.5, 1: 0.52, 2: 0.49}, {5: 0.53, 6: 0.51}
    difference = compare(a, b, Noise(None, 0))
    expected = stats.ttest_ind([0.53, 0.51], [0.5, 0.52, 0.49], equal_var=False).confidence_interval(0.95)
    assert difference.interval is not None
    assert difference.value - difference.interval == pytest.approx(expected.low, abs=1e-9)
    assert difference.value + difference.interval == pytest.approx(expected.high, abs=1e-9)


def test_the_false_positive_rate_is_about_5_percent() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.01, (2000, 2, 4))
    false_positives = sum(
        compare(dict(enumerate(a)), dict(enumerate(b, 10)), Noise(None, 0)).is_significant for a, b in draws
    )
    assert false_positives / 2000 < 0.065


def test_one_seed_uses_the_pooled_standard_deviation() -> None:
    noise = pooled_noise([{0: 0.50, 1: 0.52}, {0: 0.7}, {3: 0.30, 4: 0.34, 5: 0.32}])
    assert noise.degrees_of_freedom == 3
    assert noise.std == pytest.approx(np.sqrt((0.0002 + 0.0008) / 3))
    assert compare({0: 0.5}, {0: 0.51}, noise).verdict == "not significant"
    assert compare({0: 0.5}, {0: 0.9}, noise).verdict == "significant"


def test_without_repeated_seeds_differences_are_untested() -> None:
    assert compare({0: 0.5}, {0: 0.9}, Noise(None, 0)).verdict == "untested"
    assert compare({0: 0.5}, {0: 0.5}, Noise(None, 0)).verdict == "identical"


def test_seeds_needed_grows_with_the_standard_deviation() -> None:
    assert seeds_needed(0.01, 0.01) == 16
    assert seeds_needed(0.1, 0.01) == 2


@pytest.mark.parametrize("seed", range(30))
def test_holm_rejects_the_hypotheses_of_the_literal_procedure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p_values = rng.beta(0.3, 3, rng.integers(1, 12))
    differences = [Difference(1.0, 1.0, "not significant", "", float(p)) for p in p_values]
    untested = Difference(1.0, None, "untested", "")
    adjusted = holm([*differences, untested])
    rejected: set[int] = set()
    for i in np.argsort(p_values):  # from the smallest p-value until the first that is not rejected
        if p_values[i] >= 0.05 / (len(p_values) - len(rejected)):
            break
        rejected.add(int(i))
    assert {i for i, difference in enumerate(adjusted) if difference.is_significant} == rejected
    assert adjusted[-1] == untested
    assert all(new.p_value >= old.p_value for new, old in zip(adjusted, differences, strict=False))  # type: ignore[operator]


def test_p_values_agree_with_the_intervals() -> None:
    a, b = {0: 0.5, 1: 0.52, 2: 0.49}, {0: 0.53, 1: 0.54, 2: 0.53}
    difference = compare(a, b, Noise(None, 0))
    assert difference.p_value == pytest.approx(stats.ttest_rel(list(b.values()), list(a.values())).pvalue)
    assert (difference.p_value < 0.05) == (abs(difference.value) > (difference.interval or 0.0))


def test_the_prediction_interval_contains_95_percent_of_new_seeds() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.01, (4000, 4))
    inside = [
        abs(row[3] - row[:3].mean()) <= (prediction_interval(row[:3].tolist(), Noise(None, 0)) or 0.0) for row in draws
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)
    assert prediction_interval([0.5], Noise(None, 0)) is None
