"""Flow with an additional memory bank per expert."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from moleflow.models.batches import Batches
from moleflow.models.dynamic_buffers import DynamicBuffers
from moleflow.models.flow.expert_flow import Expert, ExpertFlow
from moleflow.models.flow.spatial_mixer import SpatialMixer
from moleflow.models.memory_bank import (
    MemoryBank,
    build_memory_bank,
    extend_memory_bank,
    memory_bank_rules,
    nearest_neighbors,
    own_image_exclusion,
)
from moleflow.utils.errors import UserError, check_range
from moleflow.utils.random import generator


class MemoryBankFlow(ExpertFlow):
    """Flow whose scores include the distance to the nearest memory-bank patch.

    ``score = nll + memory_weight * d^2 / 2`` with the distance d, after whitening and blur. The added term is the
    energy of a unit Gaussian around the nearest memory-bank patch; the score is no likelihood. The flow is smooth and
    models dependencies between features; the memory bank preserves modes that the flow smooths out.

    Args:
        memory_size: Memory-bank patches per expert, at least 1.
        memory_weight: Weight of the memory-bank term, at least 0.
        settings: Arguments of :class:`ExpertFlow`. The memory bank is built before training, so ``adapter`` must be
            ``closed_form_whitening`` and ``spatial_context_mode`` must be ``blur`` or ``none``.

    Raises:
        UserError: If an argument is not allowed.
    """

    overridable_keys: ClassVar[tuple[str, ...]] = ("adapter_rank", "adapter_shrinkage")

    def __init__(self, memory_size: int = 500, memory_weight: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        check_range("model.memory_size", memory_size, 1)
        check_range("model.memory_weight", memory_weight, 0)
        hint = "The memory bank is built before training."
        if self.adapter != "closed_form_whitening":
            raise UserError(
                f"model.adapter={self.adapter} is not possible with a memory bank. {hint} "
                "Set model.adapter=closed_form_whitening."
            )
        if isinstance(self.mixer, SpatialMixer):
            raise UserError(
                f"model.spatial_context_mode={self.mixer_mode} is not possible with a memory bank. {hint} "
                "Set model.spatial_context_mode to blur or none."
            )
        self.memory_size = memory_size
        self.memory_weight = memory_weight

    def add_expert(self, name: str, **overrides: Any) -> Expert:
        """Create and register an expert with an empty memory bank.

        Args:
            name: Name of the expert.
            overrides: Settings that replace the model's settings for this expert; some of :attr:`overridable_keys`.

        Raises:
            UserError: If an expert of this name exists, or a setting cannot be overridden.
        """
        expert = super().add_expert(name, **overrides)
        expert.memory = DynamicBuffers(**memory_bank_rules(self.dim))
        return expert

    @torch.no_grad()
    def fit(self, name: str, features: Iterable[Tensor], image_ids: Tensor | None = None) -> None:
        """Fit the input adapter, then build the memory bank.

        Args:
            name: Name of the expert.
            features: Training patches in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index of the training image that each entry of the concatenated batches shows. None: every
                entry shows another image.
        """
        super().fit(name, features, image_ids)
        prepared = Batches(lambda: (self.prepare(x, name) for x in features))
        draw = generator(self.seed, "memory", name)
        memory_bank = build_memory_bank(prepared, self.memory_size, "k_center_greedy", draw, image_ids)
        self._memory_bank(name).load_state_dict(memory_bank._asdict())

    @torch.no_grad()
    def update(self, name: str, source: str, features: Iterable[Tensor], image_ids: Tensor, former: int) -> None:
        """Copy an earlier expert and add patches of further images to its memory bank, as many per image.

        The adapter is not changed, because the patches of the memory bank are its output.

        Args:
            name: Name of the new expert.
            source: Name of the earlier expert.
            features: Patches of the further images in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index from 0 of the further image that each entry of the concatenated batches shows.
            former: Number of grids that the earlier expert was fitted to, images times augmentations.
        """
        self._copy_expert(name, source)
        prepared = Batches(lambda: (self.prepare(x, name) for x in features))
        draw = generator(self.seed, "memory", name)
        extended = extend_memory_bank(
            MemoryBank.of(self._memory_bank(source)), prepared, former, "k_center_greedy", draw, image_ids
        )
        self._memory_bank(name).load_state_dict(extended._asdict())

    def patch_scores(self, x: Tensor, name: str, image_ids: Tensor | None = None) -> Tensor:
        """Return the anomaly scores of all patches, (B, H, W) float32.

        Args:
            x: Patch features (B, H, W, D) from the backbone.
            name: Name of the expert.
            image_ids: (B,) indices of training images, whose own memory-bank patches are excluded; None for all other
                images.
        """
        memory_bank = self._memory_bank(name)
        exclusion = own_image_exclusion(x, image_ids, memory_bank.get_buffer("image_ids"))
        patches = self.prepare(x, name).flatten(0, 2)
        distances = nearest_neighbors(patches, memory_bank.get_buffer("patches"), exclusion).distances
        energy = self.memory_weight * 0.5 * distances.square().reshape(x.shape[:3])
        return super().patch_scores(x, name) + energy

    def _memory_bank(self, name: str) -> DynamicBuffers:
        memory_bank = self.expert(name).memory
        assert isinstance(memory_bank, DynamicBuffers)
        return memory_bank
