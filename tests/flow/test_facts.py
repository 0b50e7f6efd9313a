"""Tensors of any shape in and out of an expert's file."""

import pytest
import torch

from moleflow.flow import PatchModel
from moleflow.flow.facts import Facts
from moleflow.parts import build_part
from moleflow.randomness import generator

MEMORIES = {
    "beside a flow": {
        "_target_": "moleflow.flow.MemoryFlow",
        "dim": 8,
        "coupling_layers": 1,
        "adapter": "statistics",
        "spatial_context_mode": "blur",
    },
    "alone": {"_target_": "moleflow.rivals.PatchMemory", "dim": 8, "size": 20},
    "of a mixture": {"_target_": "moleflow.rivals.PatchMixture", "dim": 8, "size": 20},
}
GRIDS = torch.randn(6, 4, 5, 8, generator=generator(0, "facts"))


def new(memory: str) -> PatchModel:
    model: PatchModel = build_part("model", MEMORIES[memory])
    model.add_expert("a")
    return model


def test_facts_take_shape_and_type_of_what_is_loaded() -> None:
    facts, given = Facts("a", "b"), {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor([0.5])}
    facts.load_state_dict(given)
    facts.load_state_dict(given | {"a": torch.arange(4)})
    assert facts.get_buffer("a").tolist() == [0, 1, 2, 3]
    assert facts.get_buffer("a").dtype == torch.int64
    with pytest.raises(RuntimeError, match="b"):
        facts.load_state_dict({"a": torch.arange(4)})
    with pytest.raises(RuntimeError, match="c"):
        facts.load_state_dict(given | {"c": torch.arange(4)})


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_memory_whose_file_is_older_than_its_pictures_scores_as_it_did(memory: str) -> None:
    now, old = new(memory), new(memory)
    now.fit("a", [GRIDS])
    state = {key: value for key, value in now.expert_state("a").items() if not key.endswith("pictures")}
    assert len(state) == len(now.expert_state("a")) - 1
    old.load_expert_state("a", state)
    seen, training = GRIDS[:2], torch.arange(2)
    assert torch.equal(old.patch_scores(seen, "a"), now.patch_scores(seen, "a"))
    assert torch.equal(old.patch_scores(seen, "a", training), now.patch_scores(seen, "a")), "it leaves nothing out"
    assert not torch.equal(now.patch_scores(seen, "a", training), now.patch_scores(seen, "a"))
    again = new(memory)
    again.load_expert_state("a", old.expert_state("a"))
    assert torch.equal(again.patch_scores(seen, "a", training), old.patch_scores(seen, "a", training))
