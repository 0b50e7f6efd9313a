"""Differences against an independent oracle, and rates under no effect at all."""

import numpy as np
import pytest
from scipy import stats

from moleflow.report.statistics import Noise, compare, pooled_noise, seeds_needed


def test_common_seeds_are_a_paired_t_test() -> None:
    a, b = {0: 0.5, 1: 0.52, 2: 0.49}, {0: 0.53, 1: 0.54, 2: 0.53, 7: 0.9}
    found = compare(a, b, Noise(None, 0))
    oracle = stats.ttest_rel([0.53, 0.54, 0.53], [0.5, 0.52, 0.49]).confidence_interval(0.95)
    assert found.value - (found.interval or 0) == pytest.approx(oracle.low)
    assert found.verdict == ("beyond the noise" if oracle.low > 0 else "inside the noise")


def test_other_seeds_are_welchs_test() -> None:
    a, b = {0: 0.5, 1: 0.52, 2: 0.49}, {5: 0.53, 6: 0.51}
    found = compare(a, b, Noise(None, 0))
    oracle = stats.ttest_ind([0.53, 0.51], [0.5, 0.52, 0.49], equal_var=False).confidence_interval(0.95)
    assert found.value + (found.interval or 0) == pytest.approx(oracle.high)


def test_no_effect_is_rarely_called_one() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.01, (2000, 2, 4))
    wrong = sum(
        compare(dict(enumerate(a)), dict(enumerate(b, 10)), Noise(None, 0)).verdict == "beyond the noise"
        for a, b in draws
    )
    assert wrong / 2000 < 0.065


def test_one_seed_borrows_the_noise_of_others() -> None:
    noise = pooled_noise([{0: 0.50, 1: 0.52}, {0: 0.7}, {3: 0.30, 4: 0.34, 5: 0.32}])
    assert noise.freedom == 3
    assert noise.sd == pytest.approx(np.sqrt((0.0002 + 0.0008) / 3))
    assert compare({0: 0.5}, {0: 0.51}, noise).verdict == "inside the noise"
    assert compare({0: 0.5}, {0: 0.9}, noise).verdict == "beyond the noise"
    assert compare({0: 0.5}, {0: 0.9}, Noise(None, 0)).verdict == "noise unknown"


def test_seeds_needed_grows_with_noise() -> None:
    assert seeds_needed(0.01, 0.01) == 16
    assert seeds_needed(0.1, 0.01) == 2
