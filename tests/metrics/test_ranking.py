"""Ranking metrics against scikit-learn and the definition, for any range and with ties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from moleflow.metrics.ranking import auroc, average_precision, rank
from moleflow.utils.random import generator


def _data(count: int, low: float, high: float, levels: int | None, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(seed, "test-ranking", count)
    labels = torch.rand(count, generator=draw) < 0.2
    unit = (torch.rand(count, generator=draw) + 0.3 * labels).clamp(max=1)
    if levels is not None:
        unit = (unit * levels).round() / levels
    return low + (high - low) * unit, labels


@pytest.mark.parametrize("levels", [None, 100, 5, 1])
@pytest.mark.parametrize(("low", "high"), [(-1e6, 1e6), (0.0, 1.0), (-700.0, -699.9), (5e5, 1e6), (-1e-6, 1e-6)])
def test_equals_scikit_learn(low: float, high: float, levels: int | None) -> None:
    scores, labels = _data(3000, low, high, levels)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12))
def test_equals_the_definition(samples: list[tuple[int, bool]]) -> None:
    scores = torch.tensor([float(score) for score, _ in samples])
    labels = torch.tensor([label for _, label in samples])
    positives = [score for score, label in samples if label]
    negatives = [score for score, label in samples if not label]
    if not positives or not negatives:
        assert math.isnan(auroc(scores, labels))
        assert math.isnan(average_precision(scores, labels))
        return
    wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert auroc(scores, labels) == pytest.approx(sum(wins) / len(wins))
    area, recall = 0.0, 0.0
    for threshold in sorted({score for score, _ in samples}, reverse=True):
        hits = [label for score, label in samples if score >= threshold]
        step = sum(hits) / len(positives) - recall
        area, recall = area + step * sum(hits) / len(hits), recall + step
    assert average_precision(scores, labels) == pytest.approx(area)


def test_metrics_depend_on_the_order_of_scores_only() -> None:
    scores, labels = _data(500, -1, 1, 50)
    for monotone in (scores.double() * 1e6 - 3e7, scores.double() ** 3, scores.double().exp()):
        assert auroc(monotone, labels) == auroc(scores, labels)
        assert average_precision(monotone, labels) == average_precision(scores, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_all_dtypes_are_ranked_exactly(dtype: torch.dtype) -> None:
    scores, labels = _data(400, -200, 200, 60)
    typed = scores.round().to(dtype)
    assert auroc(typed, labels) == pytest.approx(roc_auc_score(labels, typed.double()), abs=1e-12)


def test_large_integers_are_ranked_exactly() -> None:
    scores = torch.tensor([2**24, 2**24 + 1])  # equal in float32
    assert auroc(scores, torch.tensor([0, 1])) == 1.0


def test_metrics_do_not_depend_on_shape_and_stride() -> None:
    scores, labels = _data(240, -5, 5, 20)
    grid, mask = scores.reshape(4, 6, 10).transpose(0, 2), labels.reshape(4, 6, 10).transpose(0, 2)
    assert auroc(grid, mask) == auroc(scores, labels)
    assert average_precision(grid, mask.long()) == average_precision(scores, labels)


def test_one_class_gives_nan() -> None:
    scores = torch.arange(4.0)
    for labels in (torch.zeros(4), torch.ones(4)):
        assert math.isnan(auroc(scores, labels))
        assert math.isnan(average_precision(scores, labels))


@pytest.mark.parametrize("index", [0, 1])
def test_nan_is_an_error_in_either_class(index: int) -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0])
    scores[index] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        auroc(scores, torch.tensor([0, 1, 0, 1]))


def test_infinite_scores_are_ranked() -> None:
    scores = torch.tensor([-torch.inf, 3.0, torch.inf, torch.inf])
    assert auroc(scores, torch.tensor([0, 0, 0, 1])) == pytest.approx(2.5 / 3)


def test_mismatched_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match="don't match"):
        rank(torch.zeros(3), torch.zeros(4))


def test_input_is_not_modified() -> None:
    scores, labels = _data(50, 0, 1, None)
    copy = scores.clone()
    average_precision(scores, labels)
    assert scores.equal(copy)
