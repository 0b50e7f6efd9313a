"""Elastic weight consolidation with one decaying Fisher diagonal (online EWC)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from moleflow.models.base import PatchModel
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import patch_nll
from moleflow.training.strategies.base import ContinualStrategy, shared_parameters
from moleflow.utils.errors import UserError


class EWC(ContinualStrategy):
    """Adds ``weight / 2 * sum_i F_i (w_i - a_i)^2`` to the loss of every task after the first.

    ``a`` are the shared weights after the previous task. F is the diagonal of the empirical Fisher information: the
    mean over training images of the squared gradient of an image's mean patch NLL. One penalty covers all tasks:
    after each task, ``F <- decay * F + F_task``, so the state has a constant size.

    Reference: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (eq. 3); one
    penalty instead of one per task: Huszar, "Note on the quadratic penalties in elastic weight consolidation", PNAS
    2018; with a decay: Schwarz et al., "Progress & Compress", ICML 2018 (online EWC).

    Args:
        weight: Weight of the penalty, at least 0. If patches were independent, the Laplace approximation of the
            earlier tasks' posterior would have the number of patches per image, 784 for a grid of 28 x 28, between
            tasks of equal size.
        decay: Share in [0, 1] of the earlier tasks' Fisher information that is retained at each task.

    Raises:
        UserError: If a value is not allowed.
    """

    requires_shared_weights = True

    def __init__(self, weight: float, decay: float = 1.0) -> None:
        if not weight >= 0 or not 0 <= decay <= 1:
            raise UserError(
                f"continual.weight={weight} must be at least 0, and continual.decay={decay} must lie in [0, 1]."
            )
        self.weight = weight
        self.decay = decay
        self.fisher: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    def penalty(self, model: PatchModel) -> Tensor | None:
        """Return the EWC penalty, a scalar; None during the first task."""
        if not self.fisher:
            return None
        shared = shared_parameters(model)
        # In the model's order: a loaded state has another one, and rounding of the sum depends on it.
        terms = [(self.fisher[name] * (weight - self.anchor[name]).square()).sum() for name, weight in shared.items()]
        return 0.5 * self.weight * torch.stack(terms).sum()

    def after_task(self, model: PatchModel, features: Mapping[str, Tensor]) -> None:
        """Add the task's Fisher information and store the weights.

        Args:
            model: The model after the task.
            features: Patch features (N, h, w, D) of the task's training images by expert.
        """
        assert isinstance(model, ExpertFlow)  # no other model updates shared weights
        task = fisher_information(model, features)
        previous = self.fisher or {name: torch.zeros_like(value) for name, value in task.items()}
        self.fisher = {name: self.decay * previous[name] + value for name, value in task.items()}
        self.anchor = {name: value.detach().clone() for name, value in shared_parameters(model).items()}

    def state(self) -> dict[str, Tensor]:
        """Return Fisher information and stored weights by name."""
        return {f"fisher.{name}": value for name, value in self.fisher.items()} | {
            f"anchor.{name}": value for name, value in self.anchor.items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the return value of :meth:`state`."""
        parts: dict[str, dict[str, Tensor]] = {"fisher": {}, "anchor": {}}
        for key, value in state.items():
            kind, name = key.split(".", 1)
            parts[kind][name] = value
        self.fisher, self.anchor = parts["fisher"], parts["anchor"]


def fisher_information(model: ExpertFlow, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information of the shared weights, by name.

    Args:
        model: The flow.
        features: Patch features (N, h, w, D) of training images by expert.
    """
    shared = shared_parameters(model)
    for parameter in shared.values():
        parameter.requires_grad_()
    total = {name: torch.zeros_like(parameter) for name, parameter in shared.items()}
    for expert, images in features.items():
        for image in images:
            z, logdet = model(image[None], expert)
            gradients = torch.autograd.grad(patch_nll(z, logdet).mean(), list(shared.values()), allow_unused=True)
            for name, gradient in zip(shared, gradients, strict=True):
                if gradient is not None:  # the base policy may leave out a global affine
                    total[name] += gradient.square()
    model.requires_grad_(False)
    count = sum(len(images) for images in features.values())
    return {name: value / count for name, value in total.items()}
