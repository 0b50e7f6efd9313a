"""What rivals without training share: experts that are a few tensors, and nothing to learn by gradient."""

import copy
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from moleflow.flow import PatchModel
from moleflow.flow.facts import Facts


class ClosedForm(PatchModel):
    """A patch model whose experts are computed from their training patches in one go.

    Args:
        facts: Names of an expert's tensors.
        optional: Names of those that older files lack; see :class:`moleflow.flow.facts.Facts`.
    """

    def __init__(self, *facts: str, optional: Sequence[str] = ()) -> None:
        super().__init__()
        self._facts = facts
        self._optional = optional

    @abstractmethod
    def compute(self, name: str, features: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """Return an expert's tensors.

        Args:
            name: The expert.
            features: All its training patches (N, H, W, D).
            pictures: (N,) the training picture that each entry shows.
        """

    def add_expert(self, name: str, **own: Any) -> nn.Module:
        """Create an expert without facts; see :meth:`PatchModel.add_expert`."""
        self.check_new(name, **own)
        expert = Facts(*self._facts, optional=self._optional)
        self.keep(name, expert)
        return expert

    @torch.no_grad()
    def fit(self, name: str, features: Iterable[Tensor], pictures: Tensor | None = None) -> None:
        """Compute an expert's tensors; see :meth:`PatchModel.fit`."""
        grids = torch.cat(list(features))
        shown = torch.arange(len(grids)) if pictures is None else pictures
        self.expert(name).load_state_dict(self.compute(name, grids, shown.to(grids.device)))

    @torch.no_grad()
    def merged(self, name: str) -> Self:
        """Return a copy with one expert alone."""
        alone = copy.copy(self)
        alone._modules = self._modules | {"experts": nn.ModuleList([copy.deepcopy(self.expert(name))])}
        alone._names = [name]
        return alone.eval()
