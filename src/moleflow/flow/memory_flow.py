"""The flow with a small memory of patches beside it: not a likelihood any more, and named for what it is."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from moleflow.errors import UserError
from moleflow.flow.context import SpatialMixer
from moleflow.flow.expert import Expert
from moleflow.flow.expert_flow import ExpertFlow
from moleflow.flow.facts import Facts
from moleflow.randomness import generator
from moleflow.selection import leave_own_out, nearest, remember


class MemoryFlow(ExpertFlow):
    """Adds to a patch's negative log-likelihood the energy of a unit Gaussian around the nearest remembered patch.

    ``score = nll + memory_weight * d^2 / 2`` with the distance d, after whitening and blur, to the nearest of some
    training patches. The flow is smooth and knows how features vary together; the memory knows modes that the flow
    has blurred.

    Args:
        memory_size: Patches an expert remembers, at least 1.
        memory_weight: Weight of the memory, at least 0.
        settings: Those of :class:`ExpertFlow`; the adapter must be ``statistics`` and the mixer ``blur`` or ``none``,
            because the memory is filled before training.

    Raises:
        UserError: If a value is not allowed.
    """

    own_keys: ClassVar[tuple[str, ...]] = ("adapter_rank", "adapter_shrinkage")

    def __init__(self, memory_size: int = 500, memory_weight: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        if memory_size < 1 or memory_weight < 0:
            raise UserError(
                f"model.memory_size={memory_size} must be at least 1, memory_weight={memory_weight} at least 0."
            )
        if self.adapter != "statistics" or isinstance(self.mixer, SpatialMixer):
            raise UserError("A memory needs model.adapter=statistics and model.spatial_context_mode=blur or none.")
        self.memory_size = memory_size
        self.memory_weight = memory_weight

    def add_expert(self, name: str, **own: Any) -> Expert:
        """Create an expert with an empty memory; see :meth:`ExpertFlow.add_expert`."""
        expert = super().add_expert(name, **own)
        expert.memory = Facts("patches", optional=("pictures",))
        return expert

    @torch.no_grad()
    def fit(self, name: str, features: Iterable[Tensor], pictures: Tensor | None = None) -> None:
        """Fit the adapter, then fill the memory; see :meth:`PatchModel.fit`."""
        grids = list(features)
        super().fit(name, grids, pictures)
        prepared = torch.cat([self.prepare(x, name) for x in grids])
        memory = remember(prepared, self.memory_size, "greedy", generator(self.seed, "memory", name), pictures)
        self._memory(name).load_state_dict(memory._asdict())

    def patch_scores(self, x: Tensor, name: str, pictures: Tensor | None = None) -> Tensor:
        """Return likelihood and memory together; see :meth:`PatchModel.patch_scores`."""
        memory = self._memory(name)
        own = leave_own_out(x, pictures, memory.get_buffer("pictures"))
        found = nearest(self.prepare(x, name).flatten(0, 2), memory.get_buffer("patches"), own)
        energy = self.memory_weight * 0.5 * found.distance.square().reshape(x.shape[:3])
        return super().patch_scores(x, name) + energy

    def _memory(self, name: str) -> Facts:
        memory = self.expert(name).memory
        assert isinstance(memory, Facts)
        return memory
