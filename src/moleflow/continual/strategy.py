"""The seam at which a way of learning continually acts on training."""

from collections.abc import Mapping

from torch import Tensor, nn

from moleflow.errors import UserError
from moleflow.flow import PatchModel


class Strategy:
    """What a task does for the tasks before it; this one does nothing.

    That is all that experts need, because what they own nobody else trains. Without experts it is plain fine-tuning.
    """

    protects = False
    """Whether it is of use only to a model whose later tasks change what earlier experts use."""

    def check(self, model: PatchModel) -> None:
        """Make sure that it is of use to a model.

        Raises:
            UserError: If it protects what does not move.
        """
        if self.protects and not model.base_moves:
            raise UserError(
                f"continual={type(self).__name__}: nothing that experts share moves in this model, so nothing can be "
                "forgotten. Use continual=experts, or a model that goes on learning (see conf/continual)."
            )

    def rehearsal(self, pictures: int) -> dict[str, Tensor]:
        """Return what a task is to learn besides its own pictures: patch grids (N, H, W, D) by expert.

        Args:
            pictures: Number of the task's own training pictures.
        """
        return {}

    def penalty(self, model: PatchModel) -> Tensor | None:
        """Return what is added to the loss of each step, a scalar; None adds nothing."""
        return None

    def learned(self, model: PatchModel, features: Mapping[str, Tensor]) -> None:
        """Take from a finished task what the tasks after it will need.

        Args:
            model: The model that has just learned it.
            features: Its training patches (N, H, W, D) by expert.
        """

    def state(self) -> dict[str, Tensor]:
        """Return all that is kept from task to task; a continued run gets it back by :meth:`load`."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` returned."""


def shared_parameters(model: PatchModel) -> dict[str, nn.Parameter]:
    """Return the parameters that all experts share, by name."""
    shared = {id(parameter) for parameter in model.base_parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in shared}
