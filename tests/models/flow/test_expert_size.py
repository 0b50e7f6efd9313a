"""Sizes of experts at 768 channels, in memory and on disk."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.composing import once
from moleflow.detector.registry import build_component
from moleflow.detector.store import ModelStore
from moleflow.models.flow.expert_flow import ExpertFlow


def new_flow(*overrides: str) -> ExpertFlow:
    settings: Any = dict(once("backbone=wide_resnet50_2", *overrides)["model"])
    flow = build_component("model", settings)
    assert isinstance(flow, ExpertFlow)
    flow.add_expert("a")
    return flow


@pytest.mark.parametrize(
    ("overrides", "bound"),
    [
        (["model=small"], 0.5e6),
        (["model=small", "model.dia_blocks=4", "model.dia_hidden_ratio=0.008", "model.adapter_rank=64"], 0.1e6),
        (["model=small", "model.dia_blocks=0", "model.adapter_rank=64"], 0.1e6),
    ],
)
def test_number_of_values_of_small_experts(overrides: list[str], bound: float, tmp_path: Path) -> None:
    flow = new_flow(*overrides)
    assert flow.dim == 768
    assert not list(flow.base_parameters())
    assert flow.num_values("a") < bound
    store = ModelStore(tmp_path)
    store.save({}, flow.base_state(), {"a": flow.expert_state("a")}, {"a": {"categories": ["a"]}})
    path = tmp_path / "experts" / "a.safetensors"
    assert sum(t.numel() for t in load_file(path).values()) == flow.num_values("a")
    assert path.stat().st_size < 4 * bound


def test_number_of_values_of_the_small_and_the_default_expert() -> None:
    # 8 blocks of two MLPs 384 -> 24 -> 24 -> 384; mean, scale, 128 directions and gains.
    mlp = 384 * 24 + 24 + 24 * 24 + 24 + 24 * 384 + 384
    assert new_flow("model=small").num_values("a") == 8 * 2 * mlp + 2 * 768 + 128 * 768 + 128 == 411_008
    assert new_flow().num_values("a") == 3_706_368


def test_low_rank_whitening_is_invertible() -> None:
    flow = new_flow("model=small", "model.spatial_context_mode=none", "backbone.dim=32", "model.adapter_rank=8")
    x = torch.randn(6, 4, 4, 32, generator=torch.Generator().manual_seed(0))
    flow.fit("a", [x])
    adapter = flow.expert("a").adapter
    jacobian = torch.autograd.functional.jacobian(adapter, x[:1, :1, :1]).reshape(32, 32)
    assert math.isclose(float(torch.linalg.slogdet(jacobian)[1]), float(adapter.log_determinant()), rel_tol=1e-4)
