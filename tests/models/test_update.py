"""Tests of experts that are updated with further images of their category."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tensors import random_grids
from moleflow.models.base import PatchModel
from moleflow.models.closed_form.mixture import MixtureModel
from moleflow.models.closed_form.padim import PaDiM
from moleflow.models.closed_form.patchcore import PatchCore
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.memory_flow import MemoryBankFlow
from moleflow.models.memory_bank import SELECTIONS

WITHOUT_STEPS: dict[str, Any] = {
    "dim": 8, "coupling_layers": 0, "dia_blocks": 0, "lora_rank": 0, "adapter": "closed_form_whitening",
    "spatial_context_mode": "none", "position_code": False,
}  # fmt: skip


def updated(model: PatchModel, former: Tensor, further: Tensor) -> PatchModel:
    """Fit the expert ``a`` to former images, and update it to ``b`` with further images."""
    model.add_expert("a")
    model.fit("a", [former])
    model.add_expert("b")
    model.update("b", "a", [further[:2], further[2:]], torch.arange(len(further)), len(former))
    return model


def images(further: int = 5) -> tuple[Tensor, Tensor]:
    """Return patch grids of former and of further images, which differ in mean and scale."""
    return random_grids(9), 2 * random_grids(further, seed=1) + 0.5


@pytest.mark.parametrize(
    "model",
    [PaDiM(8, channels=6, ridge=0.1), ExpertFlow(**WITHOUT_STEPS, adapter_rank=8, adapter_shrinkage=0.1)],
    ids=["PaDiM", "Gaussian"],
)
def test_updated_statistics_are_those_of_all_images(model: PatchModel) -> None:
    former, further = images()
    updated(model, former, further)
    model.add_expert("all")
    model.fit("all", [torch.cat((former, further))])
    x = random_grids(3, seed=2)
    torch.testing.assert_close(model.patch_scores(x, "b"), model.patch_scores(x, "all"), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(model.patch_scores(x, "a"), model.patch_scores(x, "all"), rtol=1e-2)


def test_groups_of_images_do_not_change_the_statistics() -> None:
    former, further = images(4)
    scores = []
    for ids in (torch.arange(4), torch.tensor([0, 0, 1, 1])):
        model = PaDiM(8, channels=6, ridge=0.1)
        for name in "ab":
            model.add_expert(name)
        model.fit("a", [former])
        model.update("b", "a", [further], ids, len(former))
        scores.append(model.patch_scores(random_grids(2, seed=3), "b"))
    assert torch.equal(*scores)


def test_updated_statistics_of_low_rank_are_near_those_of_all_images() -> None:
    former, further = images()
    model = updated(ExpertFlow(**WITHOUT_STEPS, adapter_rank=3, adapter_shrinkage=0.1), former, further)
    model.add_expert("all")
    model.fit("all", [torch.cat((former, further))])
    x = random_grids(3, seed=2)
    expected = model.patch_scores(x, "all")
    difference = (model.patch_scores(x, "b") - expected).abs().mean()
    assert difference < 0.2 * (model.patch_scores(x, "a") - expected).abs().mean()


@pytest.mark.parametrize(
    "model",
    [
        *(PatchCore(8, size=40, selection=selection) for selection in SELECTIONS),
        MixtureModel(8, size=40, rank=4),
        MemoryBankFlow(**WITHOUT_STEPS, adapter_rank=8, adapter_shrinkage=0.1, memory_size=40),
    ],
    ids=[*SELECTIONS, "mixture", "flow with memory bank"],
)
def test_updated_memory_bank_raises_no_score(model: PatchModel) -> None:
    former, further = images(6)
    updated(model, former, further)
    x = torch.cat((former, further, random_grids(3, seed=2)))
    before, after = model.patch_scores(x, "a"), model.patch_scores(x, "b")
    assert bool((after <= before + 1e-4).all())
    assert after[9:15].mean() < before[9:15].mean()
    state = model.expert_state("b")
    (bank,) = (value for key, value in state.items() if key.endswith("patches"))
    assert len(bank) == 40 + round(40 * 6 / 9)
    # Each further image is scored without its own patches, which have its index.
    alone = model.patch_scores(further, "b", torch.arange(6))
    assert bool((alone >= model.patch_scores(further, "b") - 1e-4).all())
    if not isinstance(model, PatchCore) or model.selection != "kmeans":
        assert alone.mean() > model.patch_scores(further, "b").mean()
        (ids,) = (value for key, value in state.items() if key.endswith("image_ids"))
        assert set(ids.tolist()) <= set(range(15))


def test_update_of_a_trained_flow_copies_the_expert() -> None:
    model = ExpertFlow(dim=8, coupling_layers=2, lora_rank=2, dia_blocks=1)
    former, further = images()
    model.add_expert("first")
    model.fit("first", [former])
    model.add_expert("a")
    with torch.no_grad():
        for parameter in model.expert("a").parameters():
            parameter.add_(0.1)
    model.add_expert("b")
    model.update("b", "a", [further], torch.arange(5), 9)
    assert torch.equal(model.patch_scores(further, "b"), model.patch_scores(further, "a"))
    assert not torch.equal(model.patch_scores(further, "b"), model.patch_scores(further, "first"))
