"""PatchCore, the distance to the nearest patch in a memory bank.

Reference: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022 (PatchCore). The coreset
selection and the neighborhood pooling (part of the backbone here) are as in the paper; the reweighting of the image
score is not implemented.
"""

from collections.abc import Iterable

from torch import Tensor

from moleflow.models.closed_form.base import ClosedFormModel
from moleflow.models.dynamic_buffers import DynamicBuffers
from moleflow.models.memory_bank import (
    SELECTIONS,
    MemoryBank,
    build_memory_bank,
    extend_memory_bank,
    memory_bank_rules,
    nearest_neighbors,
    own_image_exclusion,
)
from moleflow.utils.errors import check_choice, check_range
from moleflow.utils.random import generator


class PatchCore(ClosedFormModel):
    """Memory bank of training patches per expert.

    For one memory bank over all categories, use a scenario in which all categories form one task.

    Args:
        dim: Channels D of a patch.
        size: Memory-bank patches per expert; all patches, if an expert has fewer.
        selection: ``k_center_greedy``, ``kmeans`` or ``random``; see
            :func:`moleflow.models.memory_bank.build_memory_bank`.
        seed: Seed of the draws.

    Raises:
        UserError: If an argument is not allowed.

    Examples:
        >>> import torch
        >>> model = PatchCore(dim=8, size=20)
        >>> _ = model.add_expert("bottle")
        >>> model.fit("bottle", [torch.randn(6, 4, 5, 8)])
        >>> model.patch_scores(torch.randn(2, 4, 5, 8), "bottle").shape
        torch.Size([2, 4, 5])
    """

    def __init__(self, dim: int, size: int = 3000, selection: str = "k_center_greedy", seed: int = 0) -> None:
        super().__init__(**memory_bank_rules(dim))
        check_range("model.size", size, 1)
        self.dim = dim
        self.size = size
        self.selection = check_choice("model.selection", selection, SELECTIONS)
        self.seed = seed

    @property
    def excludes_training_images(self) -> bool:
        """Whether patches of a training image can be excluded; cluster means are of several images."""
        return self.selection != "kmeans"

    def compute(self, name: str, features: Iterable[Tensor], image_ids: Tensor) -> dict[str, Tensor]:
        """Return the memory bank of an expert.

        Args:
            name: Name of the expert.
            features: Training patches of the expert in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index of the training image that each entry of the concatenated batches shows.
        """
        draw = generator(self.seed, "memory", name)
        return build_memory_bank(features, self.size, self.selection, draw, image_ids)._asdict()

    def compute_update(
        self, name: str, source: DynamicBuffers, features: Iterable[Tensor], image_ids: Tensor, former: int
    ) -> dict[str, Tensor]:
        """Return the memory bank of the former images with further patches, as many per image.

        Args:
            name: Name of the expert.
            source: The expert of the former images.
            features: Patches of the further images in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index from 0 of the further image that each entry of the concatenated batches shows.
            former: Number of grids of the former images, images times augmentations.
        """
        draw = generator(self.seed, "memory", name)
        return extend_memory_bank(MemoryBank.of(source), features, former, self.selection, draw, image_ids)._asdict()

    def patch_scores(self, x: Tensor, name: str, image_ids: Tensor | None = None) -> Tensor:
        """Return distances to the nearest memory-bank patch, (B, H, W) float32.

        Args:
            x: Patch features (B, H, W, D) from the backbone.
            name: Name of the expert.
            image_ids: (B,) indices of training images, whose own memory-bank patches are excluded; None for all other
                images.
        """
        expert = self.expert(name)
        exclusion = own_image_exclusion(x, image_ids, expert.get_buffer("image_ids"))
        neighbors = nearest_neighbors(x.float().flatten(0, 2), expert.get_buffer("patches"), exclusion)
        return neighbors.distances.reshape(x.shape[:3])
