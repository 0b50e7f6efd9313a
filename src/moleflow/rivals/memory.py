"""A memory of patches: a patch scores its distance to the nearest one that the expert remembers.

Reference: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022 (PatchCore). Its coreset and
its neighbourhood pooling (which the backbone does here) are kept, its reweighting of the image score is not.
"""

import torch
from torch import Tensor

from moleflow.errors import UserError, choice
from moleflow.randomness import generator
from moleflow.rivals.closed_form import ClosedForm

SELECTIONS = ("greedy", "kmeans", "random")
_CHUNK = 4096  # rows of a distance matrix held at a time


class PatchMemory(ClosedForm):
    """Remembers some training patches of each expert.

    One memory for all categories is the scenario in which all arrive as one task.

    Args:
        dim: Channels D of a patch.
        size: Patches remembered by an expert; all of them, if it has fewer.
        selection: ``greedy`` takes the patch farthest from those taken, seen through a random projection; ``kmeans``
            takes cluster means; ``random`` takes any.
        projection: Channels of the random projection.
        iterations: Rounds of ``kmeans``.
        seed: Seed of the draws.

    Raises:
        UserError: If a value is not allowed.
    """

    def __init__(
        self,
        dim: int,
        size: int = 3000,
        selection: str = "greedy",
        projection: int = 32,
        iterations: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__("patches")
        for key, value in (("size", size), ("projection", projection), ("iterations", iterations)):
            if value < 1:
                raise UserError(f"model.{key}={value} must be at least 1.")
        self.dim = dim
        self.size = size
        self.selection = choice("model.selection", selection, SELECTIONS)
        self.projection = projection
        self.iterations = iterations
        self.seed = seed

    def compute(self, name: str, features: Tensor) -> dict[str, Tensor]:
        """Return the patches to remember; see :meth:`ClosedForm.compute`."""
        patches = features.flatten(0, 2)
        rng = generator(self.seed, "memory", name)
        size = min(self.size, len(patches))
        start = torch.randperm(len(patches), generator=rng)[:size].to(patches.device)
        if self.selection == "random" or size == len(patches):
            return {"patches": patches[start]}
        if self.selection == "kmeans":
            return {"patches": kmeans(patches, patches[start], self.iterations)}
        projection = torch.randn(self.dim, self.projection, generator=rng).to(patches.device)
        return {"patches": patches[farthest_first(patches @ projection, int(start[0]), size)]}

    def patch_scores(self, x: Tensor, name: str) -> Tensor:
        """Return distances to the nearest remembered patch; see :meth:`PatchModel.patch_scores`."""
        memory = self.expert(name).get_buffer("patches")
        rows = x.float().flatten(0, 2)
        nearest = [torch.cdist(part, memory).amin(1) for part in torch.split(rows, _CHUNK)]
        return torch.cat(nearest).reshape(x.shape[:3])


def farthest_first(points: Tensor, start: int, count: int) -> Tensor:
    """Return indices (count,) of points (N, D), each the farthest from those before it.

    Reference: Gonzalez, "Clustering to minimize the maximum intercluster distance", TCS 1985.
    """
    taken = [start]
    distance = (points - points[start]).square().sum(1)
    while len(taken) < count:
        taken.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[taken[-1]]).square().sum(1))
    return torch.tensor(taken, device=points.device)


def kmeans(points: Tensor, centres: Tensor, iterations: int) -> Tensor:
    """Return cluster means (K, D) of points (N, D) after Lloyd's rounds from ``centres``; an empty one stays put."""
    for _ in range(iterations):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in torch.split(points, _CHUNK)])
        counts = torch.bincount(nearest, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return centres
