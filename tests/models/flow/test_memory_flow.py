"""Tests of the flow with a memory bank."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tensors import random_grids
from moleflow.detector.registry import build_component
from moleflow.models.flow.memory_flow import MemoryBankFlow
from moleflow.utils.errors import UserError

SETTINGS: dict[str, Any] = {
    "_target_": "moleflow.models.flow.memory_flow.MemoryBankFlow",
    "dim": 8,
    "coupling_layers": 0,
    "adapter": "closed_form_whitening",
    "spatial_context_mode": "blur",
}


def grids(seed: int = 0) -> Tensor:
    return random_grids(6, seed=seed) * 3 + 1


def fitted(**settings: Any) -> MemoryBankFlow:
    flow = build_component("model", SETTINGS | settings)
    assert isinstance(flow, MemoryBankFlow)
    flow.add_expert("a")
    flow.fit("a", [grids()[:2], grids()[2:]])
    return flow


def test_score_is_negative_log_likelihood_plus_energy_of_the_nearest_patch() -> None:
    plain, flow, x = fitted(memory_weight=0.0), fitted(memory_weight=0.7, memory_size=10**6), grids(1)
    patches, rows = (flow.prepare(y, "a").flatten(0, 2) for y in (grids(), x))
    squared = (rows[:, None] - patches).square().sum(-1).amin(1).reshape(x.shape[:3])
    expected = plain.patch_scores(x, "a") + 0.35 * squared
    torch.testing.assert_close(flow.patch_scores(x, "a"), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(flow.merged("a").patch_scores(x, "a"), flow.patch_scores(x, "a"))


def test_state_dict_of_an_expert_includes_its_memory_bank() -> None:
    flow, other = fitted(memory_size=7), build_component("model", SETTINGS | {"memory_size": 7})
    other.add_expert("a")
    other.load_expert_state("a", flow.expert_state("a"))
    assert flow.expert_state("a")["memory.patches"].shape == (7, 8)
    assert torch.equal(other.patch_scores(grids(1), "a"), flow.patch_scores(grids(1), "a"))


def test_expert_initialized_from_another_builds_its_own_memory_bank() -> None:
    flow = fitted(memory_size=7, expert_start="nearest")
    flow.add_expert("b")
    flow.initialize_from("b", "a")
    flow.fit("b", [grids(3)])
    training = flow.prepare(grids(3), "b").flatten(0, 2)
    assert float(torch.cdist(flow.expert_state("b")["memory.patches"], training).amin(1).max()) < 1e-2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"memory_size": 0}, r"model\.memory_size=0"),
        ({"memory_weight": -1.0}, r"model\.memory_weight=-1"),
        ({"adapter": "affine_norm"}, r"model\.adapter=affine_norm.*adapter=closed_form_whitening"),
        ({"spatial_context_mode": "full"}, r"model\.spatial_context_mode=full.*blur or none"),
        ({"memory_sise": 5}, "memory_size"),
        ({"lora_rnk": 5}, "lora_rank"),
    ],
)
def test_invalid_settings_raise_with_config_key(setting: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_component("model", SETTINGS | setting)
