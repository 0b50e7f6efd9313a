"""Thresholds of image scores and router distances."""

import math

import numpy as np
import pytest
import torch

from helpers.program import run_command
from moleflow.scoring.thresholds import SCORE_DEVIATIONS, thresholds
from moleflow.utils.random import generator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("deviations", [0.5, SCORE_DEVIATIONS])
def test_thresholds_are_deviations_above_the_mean(deviations: float, dtype: torch.dtype) -> None:
    draw = generator(0, "test-thresholds")
    scores, distances = -700 + torch.randn(30, generator=draw).to(dtype), torch.rand(30, generator=draw).double()
    result = thresholds(scores, distances, deviations)
    x, y = scores.double().numpy(), distances.numpy()
    assert result.mean_score == pytest.approx(x.mean(), rel=1e-12)
    assert result.score == pytest.approx(x.mean() + deviations * np.std(x, ddof=1), rel=1e-12)
    assert result.distance == pytest.approx(y.mean() + 6 * np.std(y, ddof=1), rel=1e-12)
    if deviations == SCORE_DEVIATIONS:
        assert result == thresholds(scores, distances)


def test_a_single_training_image_has_infinite_thresholds() -> None:
    result = thresholds(torch.tensor([-3.0]), torch.tensor([torch.inf]))
    assert (result.mean_score, result.score, result.distance) == (-3.0, math.inf, math.inf)


def test_the_default_deviations_are_importable_without_torch() -> None:
    code = "import sys, moleflow.scoring.thresholds; sys.exit('torch' in sys.modules)"
    result = run_command("-c", code)
    assert result.returncode == 0, result.stderr
