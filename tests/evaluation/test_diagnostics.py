"""Tests of the diagnostics of single experts, and of their scalars."""

from typing import Any

import pytest
import torch
from torch import Tensor

from moleflow.evaluation.diagnostics import NO_LORA, expert_diagnostics, scalars
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import FlowLoss, patch_nll


def perturbed_flow() -> tuple[ExpertFlow, Tensor]:
    """Return a flow whose expert has no zero parameters, and patch features (11, 5, 6, 8)."""
    flow = ExpertFlow(8, coupling_layers=2, dia_blocks=1, lora_rank=3)
    flow.add_expert("a")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.expert("a").parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return flow.requires_grad_(False), torch.randn(11, 5, 6, 8, generator=draw)


def test_gradient_shares_equal_those_of_a_single_batch() -> None:
    flow, features = perturbed_flow()
    loss = FlowLoss(tail_weight=0.6, tail_top_k_ratio=0.1, lambda_logdet=1e-2)
    result = expert_diagnostics(flow, "a", features, loss)
    assert not any(parameter.requires_grad for parameter in flow.parameters())
    parameters = list(flow.expert("a").requires_grad_().parameters())
    z, logdet = flow(features, "a")
    nll = patch_nll(z, logdet)
    tail = nll.flatten(1).sort(dim=1, descending=True).values[:, :3].mean()
    norms = {}
    for name, value in (("mean", 0.4 * nll.mean()), ("tail", 0.6 * tail), ("penalty", 1e-2 * logdet.square().mean())):
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        norms[name] = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None) ** 0.5
    expected = {name: norm / sum(norms.values()) for name, norm in norms.items()}
    assert result["gradient"]["shares"] == pytest.approx(expected, rel=1e-4)
    assert result["tail"]["patches"] == 3


def test_lora_values_equal_those_of_the_merged_weights() -> None:
    flow, features = perturbed_flow()
    result = expert_diagnostics(flow, "a", features, FlowLoss())["lora"]
    merged = flow.merged("a")
    sizes = []
    for path, values in result["singular_values"].items():
        block, layer = path.removeprefix("block").split(".")
        name = f"stack.blocks.{block}.subnet.{layer}.weight"
        update = merged.state_dict()[name] - flow.state_dict()[name]
        exact = torch.linalg.svdvals(update.double())[:3]
        assert values == pytest.approx(exact.tolist(), rel=1e-3, abs=1e-5)
        sizes.append(float(update.norm() / flow.state_dict()[name].norm()))
    assert len(sizes) == 2 * 4
    assert result["relative_norm"] == pytest.approx(sum(sizes) / len(sizes), rel=1e-4)


def test_base_policies_without_updates_have_no_lora() -> None:
    flow = ExpertFlow(8, coupling_layers=1, base="separate", lora_rank=2)
    for name in ("a", "b"):
        flow.add_expert(name)
    features = torch.randn(3, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    assert expert_diagnostics(flow, "b", features, FlowLoss())["lora"] == NO_LORA


def test_scalars_are_means_over_experts_and_the_smallest_margin() -> None:
    def expert(sd: float, lora: Any) -> dict[str, Any]:
        return {"log_determinant": {"sd": sd, "correlation_with_square": None}, "lora": lora}

    experts = {"a": expert(1.0, NO_LORA), "b": expert(3.0, {"effective_rank": 2.0, "relative_norm": 0.5})}
    margins = {"a": {"minimum": 4.0}, "b": {"minimum": -1.0}}
    assert scalars({"experts": experts, "router": margins}) == {
        "logdet_sd": 2.0,
        "lora_effective_rank": 2.0,
        "lora_relative_norm": 0.5,
        "router_minimum_margin": -1.0,
    }
    assert scalars({"experts": {}, "router": "does not exist"}) == {}
