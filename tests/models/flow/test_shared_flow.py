"""Tests of the single shared flow and of one whole flow per expert."""

from typing import Any

import pytest
import torch

from helpers.tensors import perturb_parameters, random_grids
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.shared_flow import SharedFlow
from moleflow.models.flow.spatial_mixer import MIXER_MODES
from moleflow.utils.errors import UserError

SETTINGS: dict[str, Any] = {"dim": 8, "coupling_layers": 2, "dia_blocks": 1}
X = random_grids()


def test_shared_flow_starts_as_the_first_task_of_the_method_and_has_one_density() -> None:
    shared, method = SharedFlow(**SETTINGS), ExpertFlow(**SETTINGS)
    shared.add_expert("a")
    method.add_expert("a")
    assert all(torch.equal(x, y) for x, y in zip(shared(X, "a"), method(X, "a"), strict=True))
    size = sum(p.numel() for p in shared.parameters())
    assert sum(p.numel() for p in shared.trainable_parameters(["a"])) == size
    shared.add_expert("b")
    perturb_parameters(shared, 0.1)
    assert sum(p.numel() for p in shared.parameters()) == size
    assert torch.equal(shared.patch_scores(X, "a"), shared.patch_scores(X, "b"))
    torch.testing.assert_close(shared.merged("b").patch_scores(X, "b"), shared.patch_scores(X, "a"))
    with pytest.raises(UserError, match="exists already"):
        shared.add_expert("b")


@pytest.mark.parametrize("adapter", ["affine_norm", "closed_form_whitening"])
def test_all_tensors_of_a_shared_flow_are_in_its_base(adapter: str) -> None:
    def new_flow() -> SharedFlow:
        flow = SharedFlow(**SETTINGS, adapter=adapter, spatial_context_mode="blur")
        flow.add_expert("a")
        flow.add_expert("b")
        return flow

    flow, loaded = new_flow(), new_flow()
    flow.fit("a", [random_grids(seed=1)])
    perturb_parameters(flow, 0.1)
    scores = flow.patch_scores(X, "b")
    flow.fit("b", [random_grids(seed=2) * 3])  # must not change the fit of the first task
    assert torch.equal(flow.patch_scores(X, "b"), scores)
    assert flow.expert_state("a") == {}
    assert flow.num_values("a") == 0
    assert flow.num_values() == sum(v.numel() for v in flow.state_dict().values() if v.is_floating_point()) - sum(
        v.numel() for v in flow.expert("b").state_dict().values()
    )
    for name in ("a", "b"):
        loaded.load_expert_state(name, flow.expert_state(name))
    loaded.load_base_state(flow.base_state())
    assert torch.equal(loaded.patch_scores(X, "a"), scores)


@pytest.mark.parametrize(("key", "value"), [("base", "trainable"), ("expert_start", "nearest")])
def test_settings_of_experts_raise(key: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"model\.{key}={value}"):
        SharedFlow(**SETTINGS, **{key: value})
    flow = SharedFlow(**SETTINGS)
    with pytest.raises(UserError, match="Allowed: none"):
        flow.add_expert("a", adapter="none")


@pytest.mark.parametrize("mode", MIXER_MODES)
def test_flow_without_base_equals_a_first_task_and_is_independent(mode: str) -> None:
    flow = ExpertFlow(**SETTINGS, base="none", spatial_context_mode=mode, lora_rank=0)
    for name in ("a", "b"):
        flow.add_expert(name)
    assert flow.num_values() == 0
    assert list(flow.base_parameters()) == []
    first = ExpertFlow(**SETTINGS, spatial_context_mode=mode, lora_rank=0)
    first.add_expert("b")
    assert all(torch.equal(x, y) for x, y in zip(flow(X, "b"), first(X, "b"), strict=True))
    assert flow.num_values("b") == first.num_values() + first.num_values("b")
    state = {key: value.clone() for key, value in flow.expert_state("a").items()}
    scores = {name: flow.patch_scores(X, name) for name in ("a", "b")}
    parameters = flow.trainable_parameters(["b"])
    assert sum(p.numel() for p in parameters) == sum(p.numel() for p in first.trainable_parameters(["b"]))
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.1
    assert all(torch.equal(value, state[key]) for key, value in flow.expert_state("a").items())
    assert torch.equal(flow.patch_scores(X, "a"), scores["a"])
    assert not torch.equal(flow.patch_scores(X, "b"), scores["b"])
    torch.testing.assert_close(flow.merged("b").patch_scores(X, "b"), flow.patch_scores(X, "b"))
