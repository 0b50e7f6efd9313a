"""One scale for all experts' scores."""

import pytest
import torch

from moleflow.calibration import ScoreScale
from moleflow.randomness import generator
from moleflow.scoring import Scoring


def test_training_scores_have_mean_zero_and_deviation_one() -> None:
    raw = -700 + 40 * torch.randn(20, 5, 6, generator=generator(0, "scale"))
    scoring = Scoring(pool=3, centre=1.0, aggregation="max")
    scale = ScoreScale.from_training(raw, scoring)
    patches = scale.patches(raw)
    images = scale.images(scoring.image_scores(patches))
    for values in (patches, images):
        assert float(values.mean()) == pytest.approx(0, abs=1e-4)
        assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_the_unit_of_an_experts_scores_does_not_matter() -> None:
    raw = torch.randn(20, 5, 6, generator=generator(0, "scale"))
    scoring, new = Scoring(), torch.randn(2, 5, 6, generator=generator(1, "scale"))
    results = []
    for a, b in ((1.0, 0.0), (50.0, -900.0)):
        scale = ScoreScale.from_training(a * raw + b, scoring)
        results.append(scale.images(scoring.image_scores(scale.patches(a * new + b))))
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=1e-3)


def test_state_travels_and_constant_scores_stay_finite() -> None:
    scale = ScoreScale.from_training(torch.full((2, 3, 3), 4.0), Scoring())
    assert ScoreScale.from_state(scale.state()) == scale
    assert torch.equal(scale.patches(torch.full((2, 2), 4.0)), torch.zeros(2, 2))
