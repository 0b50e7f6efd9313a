"""Tests of the flow with experts."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tensors import perturb_parameters, random_grids
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.input_adapters import ADAPTERS
from moleflow.models.flow.spatial_mixer import MIXER_MODES
from moleflow.utils.errors import UserError


def new_flow(**settings: Any) -> ExpertFlow:
    defaults: dict[str, Any] = {"dim": 16, "coupling_layers": 3, "lora_rank": 4, "scale_context_kernel": 3}
    return ExpertFlow(**(defaults | settings))


def grid(seed: int = 0) -> Tensor:
    return random_grids(dim=16, seed=seed)


def trainable_names(flow: ExpertFlow, names: list[str]) -> set[str]:
    ids = {id(p) for p in flow.trainable_parameters(names)}
    return {key for key, p in flow.named_parameters() if id(p) in ids}


def test_parameter_counts_of_the_method() -> None:
    flow = ExpertFlow(dim=768)  # depth 6, rank 64, two DIA blocks
    flow.add_expert("bottle")
    assert sum(p.numel() for p in flow.trainable_parameters(["bottle"])) == 12_635_143
    flow.add_expert("cable")
    assert sum(p.numel() for p in flow.trainable_parameters(["cable"])) == 3_706_368


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("mode", MIXER_MODES)
@pytest.mark.parametrize("kernel", [3, None])
def test_exactly_the_trainable_parameters_have_gradients(adapter: str, mode: str, kernel: int | None) -> None:
    flow = new_flow(adapter=adapter, spatial_context_mode=mode, scale_context_kernel=kernel)
    flow.add_expert("a")
    flow.add_expert("b")
    perturb_parameters(flow)
    for names in (["a"], ["b"]):
        flow.requires_grad_(False)
        flow.zero_grad()
        for parameter in flow.trainable_parameters(names):
            parameter.requires_grad_()
        z, logdet = flow(grid(), names[0])
        (z.square().sum() - logdet.sum()).backward()
        trainable = trainable_names(flow, names)
        for key, parameter in flow.named_parameters():
            if key in trainable:
                assert parameter.grad is not None, key
                assert parameter.grad.abs().sum() > 0, key
            else:
                assert parameter.grad is None, key


@pytest.mark.parametrize("depth", [0, 3])
def test_inverse_of_forward_is_the_prepared_grid(depth: int) -> None:
    flow = new_flow(coupling_layers=depth)
    flow.add_expert("a")
    perturb_parameters(flow)
    flow = flow.double()
    x = grid().double()
    z, _ = flow(x, "a")
    torch.testing.assert_close(flow.inverse(z, "a"), flow.prepare(x, "a"), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("mode", ["blur", "depthwise_residual"])
def test_selected_patches_are_mapped_as_in_the_whole_grid(mode: str) -> None:
    flow, x = new_flow(scale_context_kernel=None, spatial_context_mode=mode), grid()
    flow.add_expert("a")
    perturb_parameters(flow)
    patches = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(i))[:7] for i in range(len(x))])
    z, logdet = flow(x, "a", patches)
    assert z.shape == (2, 1, 7, 16)
    whole, whole_logdet = flow(x, "a")
    for i, rows in enumerate(patches):
        torch.testing.assert_close(z[i, 0], whole[i].flatten(0, 1)[rows])
        torch.testing.assert_close(logdet[i, 0], whole_logdet[i].flatten()[rows])
    assert flow.scale_context is None
    assert new_flow().scale_context == "model.scale_context_kernel=3"
    assert new_flow(coupling_layers=0).scale_context is None


def test_new_expert_without_adapter_has_the_density_of_the_base() -> None:
    """LoRA updates and DIA blocks are initialized as the identity."""
    flow = new_flow(adapter="none")
    flow.add_expert("a")
    bare = new_flow(adapter="none", lora_rank=0, dia_blocks=0)
    bare.add_expert("a")
    for actual, expected in zip(flow(grid(), "a"), bare(grid(), "a"), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("base", ["frozen", "context", "trainable", "separate"])
def test_trainable_parameters_of_later_tasks(base: str) -> None:
    flow = new_flow(base=base)
    flow.add_expert("a")
    first = trainable_names(flow, ["a"])
    flow.add_expert("b")
    later = trainable_names(flow, ["b"])
    shared = {key for key in later if not key.startswith("experts.")}
    assert all(key.startswith("experts.0.") or not key.startswith("experts.") for key in first)
    assert not any(key.startswith("experts.0.") for key in later)
    assert flow.updates_shared_weights == bool(shared)
    if base in ("frozen", "separate"):
        assert not shared
    if base == "separate":
        assert any(".stack." in key and ".affine." in key for key in later)
        assert not any("updates" in key for key in later)
    if base == "context":
        assert shared
        assert all(any(part in key for part in (".affine.", ".context.", "mixer.")) for key in shared)
        assert not any(".affine." in key for key in first)
    if base == "trainable":
        assert shared == {key for key in first if not key.startswith("experts.")}
        assert any("scale_in" in key for key in shared)


def test_training_one_expert_does_not_change_the_others() -> None:
    flow = new_flow()
    flow.add_expert("a")
    perturb_parameters(flow)
    before = flow(grid(), "a")
    flow.add_expert("b")
    optimizer = torch.optim.SGD(flow.trainable_parameters(["b"]), lr=0.1)
    for _ in range(3):
        z, logdet = flow(grid(1), "b")
        (z.square().mean() - logdet.mean()).backward()
        optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(before, flow(grid(), "a"), strict=True))
    assert not torch.equal(flow(grid(), "b")[0], before[0])


@pytest.mark.parametrize("base", ["frozen", "separate"])
def test_merged_copy_has_the_same_density(base: str) -> None:
    flow = new_flow(base=base)
    for name in ("a", "b"):
        flow.add_expert(name)
    perturb_parameters(flow)
    weights = flow.stack.blocks[0].subnet.scale_in.weight.clone()  # type: ignore[union-attr]
    for name in ("a", "b"):
        merged = flow.merged(name)
        for actual, expected in zip(merged(grid(), name), flow(grid(), name), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(weights, flow.stack.blocks[0].subnet.scale_in.weight)  # type: ignore[union-attr]
    assert flow.names == ("a", "b")


def test_state_dicts_transfer_to_another_flow() -> None:
    flow = new_flow()
    flow.add_expert("a")
    flow.add_expert("b")
    perturb_parameters(flow)
    other = new_flow(seed=9)
    other.add_expert("b")
    other.load_base_state(flow.base_state())
    other.load_expert_state("b", flow.expert_state("b"))
    assert all(torch.equal(x, y) for x, y in zip(flow(grid(), "b"), other(grid(), "b"), strict=True))


def test_omitting_a_component_does_not_change_other_draws() -> None:
    full, ablated = new_flow(), new_flow(lora_rank=0, dia_blocks=0)
    for flow in (full, ablated):
        torch.randn(7 if flow is full else 3)  # the global generator must not matter
        flow.add_expert("a")
    expected = dict(ablated.state_dict())
    shared = [key for key in full.state_dict() if key in expected]
    assert any("scale_in.weight" in key for key in shared)
    assert all(torch.equal(full.state_dict()[key], expected[key]) for key in shared)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dim": 18}, r"backbone\.dim=18 is not divisible by 4"),
        ({"scale_context_kernel": 4}, r"model\.scale_context_kernel=4.*3 or 5"),
        ({"spatial_context_kernel": 2}, r"model\.spatial_context_kernel=2.*1 or 3"),
        ({"spatial_context_kernel": 2, "base": "none"}, r"model\.spatial_context_kernel=2"),
        ({"adapter": "afine_norm"}, r"model\.adapter=afine_norm.*affine_norm"),
        ({"base": "frozn"}, r"model\.base=frozn.*frozen"),
        ({"spatial_context_mode": "depthwize"}, r"model\.spatial_context_mode=depthwize.*depthwise"),
        ({"lora_rank": -1}, r"model\.lora_rank=-1.*0 omits"),
        ({"clamp": 0.0}, r"model\.clamp=0\.0"),
        ({"dia_hidden_ratio": -0.5}, r"model\.dia_hidden_ratio=-0\.5"),
        ({"expert_start": "near"}, r"model\.expert_start=near.*nearest"),
    ],
)
def test_invalid_settings_raise_with_config_key_and_remedy(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        new_flow(**setting).add_expert("a")


def test_later_expert_can_start_from_the_nearest_one() -> None:
    for start in ("fresh", "nearest"):
        flow = new_flow(expert_start=start)
        flow.add_expert("a")
        perturb_parameters(flow)
        flow.add_expert("b")
        flow.initialize_from("b", "a")
        same = all(torch.equal(x, y) for x, y in zip(flow(grid(), "a"), flow(grid(), "b"), strict=True))
        assert same == (start == "nearest")
    before = flow(grid(), "a")[0]
    with torch.no_grad():
        for parameter in flow.expert("b").parameters():
            parameter += 1.0  # the weights are a copy
    assert torch.equal(before, flow(grid(), "a")[0])


def test_affine_norm_starts_at_the_configured_scale() -> None:
    flow = new_flow(adapter_start=1.0, position_code=False, spatial_context_mode="none")
    flow.add_expert("a")
    flow.add_expert("b")
    normed = torch.nn.functional.layer_norm(grid(), (16,))
    torch.testing.assert_close(flow.prepare(grid(), "b"), normed)
    first = float((flow.prepare(grid(), "a") / normed).mean().detach())
    assert first == pytest.approx(0.5 + 1.5 / (1 + 2.718281828**0.7))


def test_overrides_replace_settings_of_one_expert() -> None:
    flow = new_flow(adapter_start=1.0)
    for name, overrides in (("first", {}), ("a", {}), ("b", {"adapter_start": 1.5})):
        flow.add_expert(name, **overrides)
    starts = [float(flow.expert(name).adapter.gamma()[0].detach()) for name in ("a", "b")]  # type: ignore[operator]
    assert starts == pytest.approx([1.0, 1.5])
    with pytest.raises(UserError, match=r"model\.lora_rank cannot be overridden for expert 'c'.*adapter_rank"):
        flow.add_expert("c", lora_rank=2)


def test_unknown_expert_raises_with_the_closest_name() -> None:
    flow = new_flow()
    flow.add_expert("bottle")
    with pytest.raises(UserError, match="Did you mean 'bottle'"):
        flow(grid(), "botle")
    with pytest.raises(UserError, match="exists already"):
        flow.add_expert("bottle")
