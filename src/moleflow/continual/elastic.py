"""Elastic weight consolidation: what earlier tasks need of the shared weights is held by springs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from moleflow.continual.strategy import Strategy, shared_parameters
from moleflow.errors import UserError
from moleflow.flow import ExpertFlow, PatchModel
from moleflow.losses import patch_nll


class ElasticWeights(Strategy):
    """Adds ``weight / 2 * sum_i F_i (w_i - a_i)^2`` to the loss of every task after the first.

    ``a`` are the shared weights after the last task, and F is the diagonal of the empirical Fisher information: the
    mean over training pictures of the squared gradient of a picture's mean patch NLL. One penalty for all tasks:
    after each, ``F <- decay * F + F_task``, so what is kept does not grow.

    Reference: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (eq. 3); one
    penalty in place of one a task: Huszar, "Note on the quadratic penalties in elastic weight consolidation", PNAS
    2018; with a decay: Schwarz et al., "Progress & Compress", ICML 2018 (online EWC).

    Args:
        weight: At least 0. Were patches independent, the Laplace approximation of the earlier tasks' posterior would
            have the number of patches of a picture, 784 for a grid of 28 x 28, between tasks of equal size.
        decay: Share in [0, 1] of the earlier tasks' information that is kept at each task.

    Raises:
        UserError: If a value is not allowed.
    """

    protects = True

    def __init__(self, weight: float, decay: float = 1.0) -> None:
        if not weight >= 0 or not 0 <= decay <= 1:
            raise UserError(f"continual.weight={weight} must be at least 0, continual.decay={decay} lie in [0, 1].")
        self.weight = weight
        self.decay = decay
        self.fisher: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    def penalty(self, model: PatchModel) -> Tensor | None:
        """Return the springs' energy; see :meth:`Strategy.penalty`."""
        if not self.fisher:
            return None
        shared = shared_parameters(model)
        # In the model's order: that of a file is another, and a sum is rounded by its order.
        pulls = [(self.fisher[name] * (weight - self.anchor[name]).square()).sum() for name, weight in shared.items()]
        return 0.5 * self.weight * torch.stack(pulls).sum()

    def learned(self, model: PatchModel, features: Mapping[str, Tensor]) -> None:
        """Add the task's Fisher information and anchor the weights; see :meth:`Strategy.learned`."""
        assert isinstance(model, ExpertFlow)  # nothing else has a base that moves
        task = fisher_information(model, features)
        kept = self.fisher or {name: torch.zeros_like(value) for name, value in task.items()}
        self.fisher = {name: self.decay * kept[name] + value for name, value in task.items()}
        self.anchor = {name: value.detach().clone() for name, value in shared_parameters(model).items()}

    def state(self) -> dict[str, Tensor]:
        """Return Fisher information and anchors; see :meth:`Strategy.state`."""
        return {f"fisher.{name}": value for name, value in self.fisher.items()} | {
            f"anchor.{name}": value for name, value in self.anchor.items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` returned."""
        parts: dict[str, dict[str, Tensor]] = {"fisher": {}, "anchor": {}}
        for key, value in state.items():
            kind, name = key.split(".", 1)
            parts[kind][name] = value
        self.fisher, self.anchor = parts["fisher"], parts["anchor"]


def fisher_information(model: ExpertFlow, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information of the shared weights, by name.

    Args:
        model: The flow.
        features: Training patches (N, H, W, D) by expert.
    """
    shared = shared_parameters(model)
    for parameter in shared.values():
        parameter.requires_grad_()
    total = {name: torch.zeros_like(parameter) for name, parameter in shared.items()}
    for expert, grids in features.items():
        for grid in grids:
            z, logdet = model(grid[None], expert)
            gradients = torch.autograd.grad(patch_nll(z, logdet).mean(), list(shared.values()), allow_unused=True)
            for name, gradient in zip(shared, gradients, strict=True):
                if gradient is not None:  # an affine that the base policy leaves out
                    total[name] += gradient.square()
    model.requires_grad_(False)
    count = sum(len(grids) for grids in features.values())
    return {name: value / count for name, value in total.items()}
