"""Tests of PaDiM."""

import numpy as np
import pytest

from helpers.tensors import random_grids
from moleflow.models.closed_form.padim import PaDiM
from moleflow.utils.errors import UserError


def test_score_is_the_mahalanobis_distance_at_each_position() -> None:
    model, x = PaDiM(8, channels=8, ridge=0.1), random_grids(30)
    model.add_expert("a")
    model.fit("a", [x])
    rows = x.flatten(1, 2).double().numpy()
    covariances = [np.cov(rows[:, p], rowvar=False) for p in range(20)]
    level = np.mean([np.trace(c) / 8 for c in covariances])
    y = random_grids(1, seed=1)
    for p in (0, 7, 19):
        difference = y.flatten(1, 2)[0, p].double().numpy() - rows[:, p].mean(0)
        inverse = np.linalg.inv(covariances[p] + 0.1 * level * np.eye(8))
        expected = np.sqrt(difference @ inverse @ difference)
        assert float(model.patch_scores(y, "a").flatten()[p]) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match=r"15 patch positions.*fitted to 20"):
        model.patch_scores(y[:, :3], "a")


def test_invalid_settings_raise_with_config_key() -> None:
    with pytest.raises(UserError, match=r"model\.ridge=0"):
        PaDiM(8, ridge=0)
    with pytest.raises(UserError, match=r"model\.channels=0"):
        PaDiM(8, channels=0)
