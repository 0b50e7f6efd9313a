"""The configuration for small experts keeps its promise at 768 channels, on disk too."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.composing import once
from moleflow.flow import ExpertFlow
from moleflow.parts import build_part
from moleflow.store import ExpertStore


def built(*overrides: str) -> ExpertFlow:
    settings: Any = dict(once("backbone=wide_resnet50_2", *overrides)["model"])
    flow = build_part("model", settings)
    assert isinstance(flow, ExpertFlow)
    flow.add_expert("a")
    return flow


def numbers(flow: ExpertFlow) -> int:
    return sum(value.numel() for value in flow.expert("a").state_dict().values())


@pytest.mark.parametrize(
    ("overrides", "limit"),
    [
        (["model=small"], 0.5e6),
        (["model=small", "model.dia_blocks=4", "model.dia_hidden_ratio=0.008", "model.adapter_rank=64"], 0.1e6),
        (["model=small", "model.dia_blocks=0", "model.adapter_rank=64"], 0.1e6),
    ],
)
def test_numbers_of_an_expert(overrides: list[str], limit: float, tmp_path: Path) -> None:
    flow = built(*overrides)
    assert flow.dim == 768
    assert not list(flow.base_parameters())
    assert numbers(flow) < limit
    store = ExpertStore(tmp_path)
    store.save({}, flow.base_state(), {"a": dict(flow.expert("a").state_dict())}, {"a": {"categories": ["a"]}})
    path = tmp_path / "experts" / "a.safetensors"
    assert sum(t.numel() for t in load_file(path).values()) == numbers(flow)
    assert path.stat().st_size < 4 * limit


def test_it_is_what_is_said_and_a_fraction_of_the_faithful_expert() -> None:
    small = built("model=small")
    # 8 blocks of two towers 384 -> 24 -> 24 -> 384; mean, scale, 128 directions and gains.
    tower = 384 * 24 + 24 + 24 * 24 + 24 + 24 * 384 + 384
    assert numbers(small) == 8 * 2 * tower + 2 * 768 + 128 * 768 + 128 == 411_008
    assert numbers(built()) == 3_706_368


def test_low_rank_whitening_is_still_a_map_that_can_be_undone() -> None:
    flow = built("model=small", "model.spatial_context_mode=none", "backbone.dim=32", "model.adapter_rank=8")
    x = torch.randn(6, 4, 4, 32, generator=torch.Generator().manual_seed(0))
    flow.fit("a", [x])
    adapter = flow.expert("a").adapter
    jacobian = torch.autograd.functional.jacobian(adapter, x[:1, :1, :1]).reshape(32, 32)
    assert math.isclose(float(torch.linalg.slogdet(jacobian)[1]), float(adapter.log_determinant()), rel_tol=1e-4)
