"""The assembled flow: what learns, what stays, and what an expert is."""

from typing import Any

import pytest
import torch
from torch import Tensor

from moleflow.errors import UserError
from moleflow.flow import ExpertFlow
from moleflow.flow.adapters import ADAPTERS
from moleflow.flow.context import MIXER_MODES
from moleflow.randomness import generator


def small(**changes: Any) -> ExpertFlow:
    settings: dict[str, Any] = {"dim": 16, "coupling_layers": 3, "lora_rank": 4, "scale_context_kernel": 3}
    return ExpertFlow(**(settings | changes))


def grid(seed: int = 0, dim: int = 16) -> Tensor:
    return torch.randn(2, 4, 5, dim, generator=generator(seed, "grid"))


def nudge(flow: ExpertFlow, seed: int = 3) -> None:
    rng = generator(seed, "nudge")
    with torch.no_grad():
        for parameter in flow.parameters():
            draw = 0.2 * torch.randn(parameter.shape, generator=rng)
            parameter += draw if parameter.ndim else draw.abs()  # a gate clamped at 0 has no gradient below it


def learned(flow: ExpertFlow, names: list[str]) -> set[str]:
    """Names of the parameters that one task trains."""
    ids = {id(p) for p in flow.learning_parameters(names)}
    return {key for key, p in flow.named_parameters() if id(p) in ids}


def test_parameter_counts_of_the_method() -> None:
    """method: 12.64 M in task 0 and 3.71 M later at D=768, depth 6, rank 64, two auxiliary blocks."""
    flow = ExpertFlow(dim=768)
    flow.add_expert("bottle")
    assert sum(p.numel() for p in flow.learning_parameters(["bottle"])) == 12_635_143
    flow.add_expert("cable")
    assert sum(p.numel() for p in flow.learning_parameters(["cable"])) == 3_706_368


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("mode", MIXER_MODES)
@pytest.mark.parametrize("kernel", [3, None])
def test_every_learning_parameter_gets_a_gradient_and_no_other(adapter: str, mode: str, kernel: int | None) -> None:
    flow = small(adapter=adapter, spatial_context_mode=mode, scale_context_kernel=kernel)
    flow.add_expert("a")
    flow.add_expert("b")
    nudge(flow)
    for names in (["a"], ["b"]):
        flow.requires_grad_(False)
        flow.zero_grad()
        learning = flow.learning_parameters(names)
        for parameter in learning:
            parameter.requires_grad_()
        z, logdet = flow(grid(), names[0])
        (z.square().sum() - logdet.sum()).backward()
        for key, parameter in flow.named_parameters():
            if key in learned(flow, names):
                assert parameter.grad is not None, key
                assert parameter.grad.abs().sum() > 0, key
            else:
                assert parameter.grad is None, key


def test_inverse_and_depth_zero() -> None:
    for depth in (0, 3):
        flow = small(coupling_layers=depth)
        flow.add_expert("a")
        nudge(flow)
        flow = flow.double()
        x = grid().double()
        z, _ = flow(x, "a")
        torch.testing.assert_close(flow.inverse(z, "a"), flow.prepare(x, "a"), atol=1e-8, rtol=1e-8)


def test_a_fresh_expert_leaves_the_base_alone() -> None:
    """LoRA and auxiliary blocks start as the identity, so a new expert without adapter gives the base's density."""
    flow = small(adapter="none")
    flow.add_expert("a")
    bare = small(adapter="none", lora_rank=0, dia_blocks=0)
    bare.add_expert("a")
    for ours, theirs in zip(flow(grid(), "a"), bare(grid(), "a"), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("base", ["frozen", "context", "trainable", "separate"])
def test_what_a_later_task_moves(base: str) -> None:
    flow = small(base=base)
    flow.add_expert("a")
    first = learned(flow, ["a"])
    flow.add_expert("b")
    later = learned(flow, ["b"])
    shared = {key for key in later if not key.startswith("experts.")}
    assert all(key.startswith("experts.0.") or not key.startswith("experts.") for key in first)
    assert not any(key.startswith("experts.0.") for key in later)
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


def test_training_one_expert_leaves_the_others_to_the_last_bit() -> None:
    flow = small()
    flow.add_expert("a")
    nudge(flow)
    before = flow(grid(), "a")
    flow.add_expert("b")
    optimizer = torch.optim.SGD(flow.learning_parameters(["b"]), lr=0.1)
    for _ in range(3):
        z, logdet = flow(grid(1), "b")
        (z.square().mean() - logdet.mean()).backward()
        optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(before, flow(grid(), "a"), strict=True))
    assert not torch.equal(flow(grid(), "b")[0], before[0])


@pytest.mark.parametrize("base", ["frozen", "separate"])
def test_merged_gives_the_same_density(base: str) -> None:
    flow = small(base=base)
    for name in ("a", "b"):
        flow.add_expert(name)
    nudge(flow)
    weights = flow.stack.blocks[0].subnet.scale_in.weight.clone()  # type: ignore[union-attr]
    for name in ("a", "b"):
        merged = flow.merged(name)
        for ours, theirs in zip(merged(grid(), name), flow(grid(), name), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert torch.equal(weights, flow.stack.blocks[0].subnet.scale_in.weight)  # type: ignore[union-attr]
    assert flow.names == ("a", "b")


def test_states_travel_between_flows() -> None:
    flow = small()
    flow.add_expert("a")
    flow.add_expert("b")
    nudge(flow)
    other = small(seed=9)
    other.add_expert("b")  # alone, and first
    other.load_base_state(flow.base_state())
    other.expert("b").load_state_dict(flow.expert("b").state_dict())
    assert all(torch.equal(x, y) for x, y in zip(flow(grid(), "b"), other(grid(), "b"), strict=True))


def test_components_share_all_other_draws() -> None:
    """An ablation shows the component and not the dice."""
    full, ablated = small(), small(lora_rank=0, dia_blocks=0)
    for flow in (full, ablated):
        torch.randn(7 if flow is full else 3)  # the global generator's state is of no account
        flow.add_expert("a")
    theirs = dict(ablated.state_dict())
    shared = [key for key in full.state_dict() if key in theirs]
    assert any("scale_in.weight" in key for key in shared)
    assert all(torch.equal(full.state_dict()[key], theirs[key]) for key in shared)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 18}, "not divisible by 4"),
        ({"scale_context_kernel": 4}, "scale_context_kernel=4"),
        ({"spatial_context_kernel": 2}, "spatial_context_kernel=2"),
        ({"adapter": "whitning"}, "whitening"),
        ({"base": "frozn"}, "frozen"),
        ({"spatial_context_mode": "depthwize"}, "depthwise"),
        ({"lora_rank": -1}, "lora_rank=-1"),
        ({"expert_start": "near"}, "nearest"),
    ],
)
def test_bad_settings_name_the_key_and_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**changes).add_expert("a")


def test_a_later_expert_starts_from_the_nearest_one_where_asked() -> None:
    for start in ("fresh", "nearest"):
        flow = small(expert_start=start)
        flow.add_expert("a")
        nudge(flow)
        flow.add_expert("b")
        flow.start_from("b", "a")
        same = all(torch.equal(x, y) for x, y in zip(flow(grid(), "a"), flow(grid(), "b"), strict=True))
        assert same == (start == "nearest")
    kept = flow(grid(), "a")[0]
    with torch.no_grad():
        for parameter in flow.expert("b").parameters():
            parameter += 1.0  # a copy, not the same memory
    assert torch.equal(kept, flow(grid(), "a")[0])


def test_a_whitening_adapter_starts_at_the_scale_asked_for() -> None:
    flow = small(adapter_start=1.0, position_code=False, spatial_context_mode="none")
    flow.add_expert("a")
    flow.add_expert("b")
    normed = torch.nn.functional.layer_norm(grid(), (16,))
    torch.testing.assert_close(flow.prepare(grid(), "b"), normed)
    assert float((flow.prepare(grid(), "a") / normed).mean().detach()) == pytest.approx(
        0.5 + 1.5 / (1 + 2.718281828**0.7)
    )


def test_unknown_expert_offers_the_nearest() -> None:
    flow = small()
    flow.add_expert("bottle")
    with pytest.raises(UserError, match="Did you mean 'bottle'"):
        flow(grid(), "botle")
    with pytest.raises(UserError, match="already"):
        flow.add_expert("bottle")
