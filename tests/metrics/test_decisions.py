"""Metrics of decisions against scikit-learn and loops."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_curve

from moleflow.metrics.decisions import DECISION_METRICS, decision_metrics, largest_f1


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.random(50) < 0.4
    scores = np.round(draw.normal(size=50) + labels, 1)  # with ties
    values = decision_metrics(scores, labels, [0.7] * 50, labels)
    assert tuple(values) == DECISION_METRICS
    above = scores > 0.7
    assert values["f1"] == pytest.approx(f1_score(labels, above))
    assert values["recall"] == pytest.approx(above[labels].mean())
    assert values["false_alarm_rate"] == pytest.approx(above[~labels].mean())
    assert values["unknown_rate"] == pytest.approx(labels.mean())
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert values["f1_max"] == pytest.approx(f1.max())
    assert f1_score(labels, scores > values["f1_max_threshold"]) == pytest.approx(values["f1_max"])


def test_each_image_has_the_threshold_of_its_expert() -> None:
    values = decision_metrics([1.0, 1.0, 5.0, 5.0], [False, True, False, True], [0.0, 0.0, 9.0, 9.0], [False] * 4)
    assert (values["false_alarm_rate"], values["recall"]) == (0.5, 0.5)


def test_undefined_values_are_nan() -> None:
    values = decision_metrics([1.0, 2.0], [False, False], [None, 1.0], [False, True])
    assert all(math.isnan(values[key]) for key in ("false_alarm_rate", "recall", "f1", "f1_max", "f1_max_threshold"))
    assert values["unknown_rate"] == 0.5
    one_class = decision_metrics([1.0, 2.0], [True, True], [1.0, 1.0], [False, False])
    assert (one_class["recall"], math.isnan(one_class["false_alarm_rate"])) == (0.5, True)


def test_the_highest_of_equally_good_thresholds_is_returned() -> None:
    assert largest_f1([0.0, 1.0, 2.0], [False, True, True]) == (1.0, 0.5)
    assert largest_f1([3.0, 3.0, 3.0], [False, True, True]) == (pytest.approx(0.8), 2.0)
