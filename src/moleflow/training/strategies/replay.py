"""Experience replay: each task is also trained on some images of earlier tasks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from moleflow.models.base import PatchModel
from moleflow.training.strategies.base import ContinualStrategy
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator


class Replay(ContinualStrategy):
    """Stores the patch features of some training images, at most ``images`` of all tasks together.

    Every expert has an equal share, which shrinks as more arrive: a prefix of its own random order, so a removed image
    never returns. In a task the stored images are repeated until there are as many as images of the task.

    Reference: Rolnick et al., "Experience Replay for Continual Learning", NeurIPS 2019 (half of the steps); Rebuffi et
    al., "iCaRL", CVPR 2017 (equal shares of a fixed budget).

    Args:
        images: The budget, at least 1. An image takes h w D values.
        seed: Seed of the choice of images.

    Raises:
        UserError: If the budget is too small.
    """

    requires_shared_weights = True

    def __init__(self, images: int, seed: int = 0) -> None:
        if images < 1:
            raise UserError(f"continual.images={images} must be at least 1.")
        self.images = images
        self.seed = seed
        self.buffer: dict[str, Tensor] = {}

    def replay_samples(self, count: int) -> dict[str, Tensor]:
        """Return the stored patch features by expert, repeated to ``count`` images in total.

        Args:
            count: Number of the task's own training images.
        """
        return {
            name: features[torch.arange(max(share, len(features)), device=features.device) % len(features)]
            for (name, features), share in zip(self.buffer.items(), split_evenly(count, len(self.buffer)), strict=True)
        }

    def after_task(self, model: PatchModel, features: Mapping[str, Tensor]) -> None:
        """Store images of the task and remove some of earlier tasks.

        Args:
            model: The model after the task.
            features: Patch features (N, h, w, D) of the task's training images by expert.
        """
        for name, images in features.items():
            order = torch.randperm(len(images), generator=generator(self.seed, "replay", name))[: self.images]
            self.buffer[name] = images[order.to(images.device)]
        shares = split_evenly(self.images, len(self.buffer))
        retained = {name: x[:share].clone() for (name, x), share in zip(self.buffer.items(), shares, strict=True)}
        self.buffer = {name: images for name, images in retained.items() if len(images)}

    def state(self) -> dict[str, Tensor]:
        """Return the stored patch features; the keys contain their order."""
        return {f"{i:05d}.{name}": images for i, (name, images) in enumerate(self.buffer.items())}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the return value of :meth:`state`."""
        self.buffer = {key.split(".", 1)[1]: state[key] for key in sorted(state)}  # files do not retain the order


def split_evenly(total: int, parts: int) -> list[int]:
    """Return ``total`` divided into nearly equal whole numbers, larger ones first."""
    return [-(-(total - i) // parts) if i < total else 0 for i in range(parts)]
