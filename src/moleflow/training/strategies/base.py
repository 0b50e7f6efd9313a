"""Base class of continual-learning strategies."""

from collections.abc import Mapping

from torch import Tensor, nn

from moleflow.models.base import PatchModel
from moleflow.utils.errors import UserError


class ContinualStrategy:
    """A strategy against forgetting; this base class does nothing.

    Experts need no strategy, because no later task changes their parameters. For a model without experts the base
    class is plain fine-tuning.
    """

    requires_shared_weights = False
    """Whether the strategy has an effect only if later tasks update weights that earlier experts use."""

    def check(self, model: PatchModel) -> None:
        """Check that the strategy has an effect on a model.

        Raises:
            UserError: If it protects shared weights and the model updates none.
        """
        if self.requires_shared_weights and not model.updates_shared_weights:
            raise UserError(
                f"continual={type(self).__name__}: no shared parameters are updated by this model, so there is nothing "
                "to protect. Use continual=experts, or a model that updates shared weights (see conf/continual)."
            )

    def replay_samples(self, count: int) -> dict[str, Tensor]:
        """Return patch features (N, h, w, D) by expert that a task is trained on besides its own images.

        Args:
            count: Number of the task's own training images.
        """
        return {}

    def penalty(self, model: PatchModel) -> Tensor | None:
        """Return a scalar that is added to the loss of each step, or None."""
        return None

    def after_task(self, model: PatchModel, features: Mapping[str, Tensor]) -> None:
        """Update the strategy after a task.

        Args:
            model: The model after the task.
            features: Patch features (N, h, w, D) of the task's training images by expert.
        """

    def state(self) -> dict[str, Tensor]:
        """Return the state that is carried from task to task; :meth:`load` restores it in a resumed run."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the return value of :meth:`state`."""


def shared_parameters(model: PatchModel) -> dict[str, nn.Parameter]:
    """Return the parameters that all experts share, by name."""
    shared = {id(parameter) for parameter in model.base_parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in shared}
