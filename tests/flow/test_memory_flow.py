"""The flow with a memory beside it."""

import pytest
import torch
from torch import Tensor

from moleflow.errors import UserError
from moleflow.flow import MemoryFlow
from moleflow.parts import build_part
from moleflow.randomness import generator

SETTINGS = {
    "_target_": "moleflow.flow.MemoryFlow",
    "dim": 8,
    "coupling_layers": 0,
    "adapter": "statistics",
    "spatial_context_mode": "blur",
}


def grids(seed: int = 0) -> Tensor:
    return torch.randn(6, 4, 5, 8, generator=generator(seed, "memory")) * 3 + 1


def fitted(**changes: float) -> MemoryFlow:
    flow = build_part("model", SETTINGS | changes)
    assert isinstance(flow, MemoryFlow)
    flow.add_expert("a")
    flow.fit("a", [grids()[:2], grids()[2:]])
    return flow


def test_score_is_likelihood_plus_energy_of_the_nearest_remembered_patch() -> None:
    plain, flow, x = fitted(memory_weight=0.0), fitted(memory_weight=0.7, memory_size=10**6), grids(1)
    known, rows = (flow.prepare(y, "a").flatten(0, 2) for y in (grids(), x))
    gap = (rows[:, None] - known).square().sum(-1).amin(1).reshape(x.shape[:3])
    expected = plain.patch_scores(x, "a") + 0.35 * gap
    torch.testing.assert_close(flow.patch_scores(x, "a"), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(flow.merged("a").patch_scores(x, "a"), flow.patch_scores(x, "a"))


def test_the_memory_travels_with_its_expert_and_has_its_size() -> None:
    flow, other = fitted(memory_size=7), build_part("model", SETTINGS | {"memory_size": 7})
    other.add_expert("a")
    other.expert("a").load_state_dict(flow.expert("a").state_dict())
    assert flow.expert("a").state_dict()["memory.patches"].shape == (7, 8)
    assert torch.equal(other.patch_scores(grids(1), "a"), flow.patch_scores(grids(1), "a"))


def test_an_expert_that_starts_from_another_keeps_its_own_memory() -> None:
    flow = fitted(memory_size=7, expert_start="nearest")  # type: ignore[arg-type]
    flow.add_expert("b")
    flow.start_from("b", "a")
    flow.fit("b", [grids(3)])
    remembered = flow.expert("b").state_dict()["memory.patches"]
    seen = flow.prepare(grids(3), "b").flatten(0, 2)
    assert float(torch.cdist(remembered, seen).amin(1).max()) < 1e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_size": 0}, "memory_size=0"),
        ({"memory_weight": -1.0}, "memory_weight=-1"),
        ({"adapter": "whitening"}, "adapter=statistics"),
        ({"spatial_context_mode": "full"}, "blur or none"),
        ({"memory_sise": 5}, "memory_size"),
        ({"lora_rnk": 5}, "lora_rank"),
    ],
)
def test_bad_settings_are_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_part("model", SETTINGS | changes)
