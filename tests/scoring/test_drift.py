"""Comparison of new scores with those of normal images."""

import numpy as np
import pytest

from moleflow.scoring.drift import compare_scores


def compare(shift: float, defects: float, count: int = 40, seed: int = 0) -> tuple[bool, bool]:
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=count) + shift
    scores[: round(defects * count)] += 10
    result = compare_scores(scores.tolist(), draw.normal(size=60).tolist(), 2.5, 0.01)
    return result.exceeds_rate, result.drifted


@pytest.mark.parametrize(("shift", "defects", "expected"), [(0, 0, (0, 0)), (0, 0.5, (1, 0)), (3, 0, (1, 1))])
def test_defects_exceed_the_rate_and_only_drift_is_drift(
    shift: float, defects: float, expected: tuple[int, int]
) -> None:
    rates = np.mean([compare(shift, defects, seed=seed) for seed in range(100)], axis=0)
    assert np.abs(rates - expected).max() < 0.05


def test_few_images_are_not_compared() -> None:
    assert compare(3, 0, count=19) == (False, False)


def test_a_manual_threshold_has_no_rate() -> None:
    result = compare_scores([5.0] * 30, [5.0, 5.0, 6.0], 1.0, None)
    assert (result.above, result.above_p, result.exceeds_rate, result.drifted) == (30, None, False, False)
