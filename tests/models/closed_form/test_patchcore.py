"""Tests of PatchCore."""

import numpy as np
import pytest
import torch

from helpers.tensors import random_grids
from moleflow.models.closed_form.patchcore import PatchCore
from moleflow.models.memory_bank import SELECTIONS
from moleflow.utils.errors import UserError


def test_complete_memory_bank_scores_the_distance_to_the_nearest_training_patch() -> None:
    model, training = PatchCore(8, size=10**6), random_grids(6)
    model.add_expert("a")
    model.fit("a", [training[:2], training[2:]])
    x = random_grids(2, seed=1)
    rows, patches = x.flatten(0, 2).numpy(), training.flatten(0, 2).numpy()
    expected = np.linalg.norm(rows[:, None] - patches, axis=2).min(1).reshape(2, 4, 5)
    torch.testing.assert_close(model.patch_scores(x, "a"), torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_memory_banks_are_small_repeatable_and_independent(selection: str) -> None:
    def fitted(*names: str) -> PatchCore:
        model = PatchCore(8, size=20, selection=selection)
        for i, name in enumerate(names):
            model.add_expert(name)
            model.fit(name, [random_grids(6, seed=i)])
        return model

    one, two, x = fitted("a"), fitted("a", "b"), random_grids(2, seed=5)
    assert torch.equal(one.patch_scores(x, "a"), two.patch_scores(x, "a"))
    assert two.expert("b").get_buffer("patches").shape == (20, 8)
    assert torch.equal(two.merged("b").patch_scores(x, "b"), two.patch_scores(x, "b"))


def test_invalid_settings_raise_with_config_key() -> None:
    with pytest.raises(UserError, match=r"model\.selection=gredy.*k_center_greedy"):
        PatchCore(8, selection="gredy")
    with pytest.raises(UserError, match=r"model\.size=0"):
        PatchCore(8, size=0)


def test_overrides_raise() -> None:
    with pytest.raises(UserError, match=r"model\.size cannot be overridden for expert 'a'"):
        PatchCore(8).add_expert("a", size=5)
