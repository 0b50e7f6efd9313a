"""A memory of patches: a patch scores its distance to the nearest one that the expert remembers.

Reference: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022 (PatchCore). Its coreset and
its neighbourhood pooling (which the backbone does here) are kept, its reweighting of the image score is not.
"""

from torch import Tensor

from moleflow.errors import UserError, choice
from moleflow.randomness import generator
from moleflow.rivals.closed_form import ClosedForm
from moleflow.selection import SELECTIONS, leave_own_out, nearest, remember


class PatchMemory(ClosedForm):
    """Remembers some training patches of each expert.

    One memory for all categories is the scenario in which all arrive as one task.

    Args:
        dim: Channels D of a patch.
        size: Patches remembered by an expert; all of them, if it has fewer.
        selection: How they are chosen: ``greedy``, ``kmeans`` or ``random``; see :func:`moleflow.selection.remember`.
        seed: Seed of the draws.

    Raises:
        UserError: If a value is not allowed.
    """

    def __init__(self, dim: int, size: int = 3000, selection: str = "greedy", seed: int = 0) -> None:
        super().__init__("patches", optional=("pictures",))
        if size < 1:
            raise UserError(f"model.size={size} must be at least 1.")
        self.dim = dim
        self.size = size
        self.selection = choice("model.selection", selection, SELECTIONS)
        self.seed = seed

    def compute(self, name: str, features: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """Return the patches to remember; see :meth:`ClosedForm.compute`."""
        draw = generator(self.seed, "memory", name)
        return remember(features, self.size, self.selection, draw, pictures)._asdict()

    def patch_scores(self, x: Tensor, name: str, pictures: Tensor | None = None) -> Tensor:
        """Return distances to the nearest remembered patch; see :meth:`PatchModel.patch_scores`."""
        expert = self.expert(name)
        own = leave_own_out(x, pictures, expert.get_buffer("pictures"))
        return nearest(x.float().flatten(0, 2), expert.get_buffer("patches"), own).distance.reshape(x.shape[:3])
