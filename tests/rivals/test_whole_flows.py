"""One flow for all, and a flow an expert: what is shared, what learns, what an expert owns."""

from typing import Any

import pytest
import torch
from torch import Tensor

from moleflow.errors import UserError
from moleflow.flow import ExpertFlow
from moleflow.flow.context import MIXER_MODES
from moleflow.randomness import generator
from moleflow.rivals import OneFlow

SETTINGS: dict[str, Any] = {"dim": 8, "coupling_layers": 2, "dia_blocks": 1}


def grid(seed: int = 0) -> Tensor:
    return torch.randn(2, 4, 5, 8, generator=generator(seed, "grid"))


def nudge(flow: ExpertFlow) -> None:
    with torch.no_grad():
        for i, parameter in enumerate(flow.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator(i, "nudge"))


def test_one_flow_starts_as_the_methods_first_task_and_has_one_density() -> None:
    one, method = OneFlow(**SETTINGS), ExpertFlow(**SETTINGS)
    one.add_expert("a")
    method.add_expert("a")
    assert all(torch.equal(x, y) for x, y in zip(one(grid(), "a"), method(grid(), "a"), strict=True))
    before = sum(p.numel() for p in one.parameters())
    assert sum(p.numel() for p in one.learning_parameters(["a"])) == before
    one.add_expert("b")
    nudge(one)
    assert sum(p.numel() for p in one.parameters()) == before
    assert torch.equal(one.patch_scores(grid(), "a"), one.patch_scores(grid(), "b"))
    torch.testing.assert_close(one.merged("b").patch_scores(grid(), "b"), one.patch_scores(grid(), "a"))
    with pytest.raises(UserError, match="there already"):
        one.add_expert("b")


@pytest.mark.parametrize("adapter", ["whitening", "statistics"])
def test_one_flow_is_all_base(adapter: str) -> None:
    def fresh() -> OneFlow:
        flow = OneFlow(**SETTINGS, adapter=adapter, spatial_context_mode="blur")
        flow.add_expert("a")
        flow.add_expert("b")
        return flow

    flow, loaded = fresh(), fresh()
    flow.fit("a", [grid(1)])
    nudge(flow)
    scores = flow.patch_scores(grid(), "b")
    flow.fit("b", [grid(2) * 3])  # the first task's fit stays
    assert torch.equal(flow.patch_scores(grid(), "b"), scores)
    assert flow.expert_state("a") == {}
    assert flow.numbers("a") == 0
    assert flow.numbers() == sum(v.numel() for v in flow.state_dict().values() if v.is_floating_point()) - sum(
        v.numel() for v in flow.expert("b").state_dict().values()
    )
    for name in ("a", "b"):
        loaded.load_expert_state(name, flow.expert_state(name))
    loaded.load_base_state(flow.base_state())
    assert torch.equal(loaded.patch_scores(grid(), "a"), scores)


@pytest.mark.parametrize("mode", MIXER_MODES)
def test_a_flow_alone_is_that_of_a_first_task_and_touches_no_other(mode: str) -> None:
    flow = ExpertFlow(**SETTINGS, base="alone", spatial_context_mode=mode, lora_rank=0)
    for name in ("a", "b"):
        flow.add_expert(name)
    assert flow.numbers() == 0
    assert list(flow.base_parameters()) == []
    first = ExpertFlow(**SETTINGS, spatial_context_mode=mode, lora_rank=0)
    first.add_expert("b")
    assert all(torch.equal(x, y) for x, y in zip(flow(grid(), "b"), first(grid(), "b"), strict=True))
    assert flow.numbers("b") == first.numbers() + first.numbers("b")
    kept, before = flow.expert_state("a"), flow.patch_scores(grid(), "a")
    kept = {key: value.clone() for key, value in kept.items()}
    learning = flow.learning_parameters(["b"])
    assert sum(p.numel() for p in learning) == sum(p.numel() for p in first.learning_parameters(["b"]))
    with torch.no_grad():
        for parameter in learning:
            parameter += 0.1
    assert all(torch.equal(value, kept[key]) for key, value in flow.expert_state("a").items())
    assert torch.equal(flow.patch_scores(grid(), "a"), before)
    assert not torch.equal(flow.patch_scores(grid(), "b"), before)
    torch.testing.assert_close(flow.merged("b").patch_scores(grid(), "b"), flow.patch_scores(grid(), "b"))
