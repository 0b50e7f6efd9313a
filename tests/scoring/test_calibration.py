"""Standardization of scores by those of the training images."""

import pytest
import torch

from moleflow.scoring.calibration import ScoreStandardizer
from moleflow.scoring.postprocessor import ScorePostprocessor
from moleflow.utils.random import generator


def test_standardized_training_scores_have_mean_zero_and_deviation_one() -> None:
    raw = -700 + 40 * torch.randn(20, 5, 6, generator=generator(0, "scale"))
    postprocessor = ScorePostprocessor(pool=3, subtract_median=1.0, aggregation="max")
    standardizer = ScoreStandardizer.from_training(raw, postprocessor)
    patches = standardizer.patches(raw)
    images = standardizer.images(postprocessor.image_scores(patches))
    for values in (patches, images):
        assert float(values.mean()) == pytest.approx(0, abs=1e-4)
        assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_standardized_scores_are_invariant_to_affine_maps() -> None:
    raw = torch.randn(20, 5, 6, generator=generator(0, "scale"))
    postprocessor, new = ScorePostprocessor(), torch.randn(2, 5, 6, generator=generator(1, "scale"))
    results = []
    for a, b in ((1.0, 0.0), (50.0, -900.0)):
        standardizer = ScoreStandardizer.from_training(a * raw + b, postprocessor)
        results.append(standardizer.images(postprocessor.image_scores(standardizer.patches(a * new + b))))
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=1e-3)


def test_state_round_trip_is_exact() -> None:
    raw = torch.randn(5, 3, 3, generator=generator(0, "scale"))
    standardizer = ScoreStandardizer.from_training(raw, ScorePostprocessor())
    assert ScoreStandardizer.from_state(standardizer.state()) == standardizer


def test_constant_scores_are_standardized_to_zero() -> None:
    standardizer = ScoreStandardizer.from_training(torch.full((2, 3, 3), 4.0), ScorePostprocessor())
    assert torch.equal(standardizer.patches(torch.full((2, 2), 4.0)), torch.zeros(2, 2))
