"""What rivals without training share: experts that are a few tensors, and nothing to learn by gradient."""

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from moleflow.flow import PatchModel


class Facts(nn.Module):
    """An expert that is a set of tensors, empty until it is fitted or loaded.

    Args:
        names: Names of the tensors.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.empty(0))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors of any shape; see :meth:`torch.nn.Module.load_state_dict`.

        What older files lack of a memory, the pictures of its patches, stays empty.
        """
        for name, value in state_dict.items():
            if name in self._buffers:
                setattr(self, name, torch.empty_like(value, device=self.get_buffer(name).device))
        absent = {"pictures": self.pictures} if "pictures" in self._buffers and "pictures" not in state_dict else {}
        return super().load_state_dict({**state_dict, **absent}, strict, assign)


class ClosedForm(PatchModel):
    """A patch model whose experts are computed from their training patches in one go.

    Args:
        facts: Names of an expert's tensors.
    """

    def __init__(self, *facts: str) -> None:
        super().__init__()
        self._facts = facts

    @abstractmethod
    def compute(self, name: str, features: Tensor) -> dict[str, Tensor]:
        """Return an expert's tensors.

        Args:
            name: The expert.
            features: All its training patches (N, H, W, D).
        """

    def add_expert(self, name: str, **own: Any) -> nn.Module:
        """Create an expert without facts; see :meth:`PatchModel.add_expert`."""
        self.check_new(name, **own)
        expert = Facts(*self._facts)
        self.keep(name, expert)
        return expert

    @torch.no_grad()
    def fit(self, name: str, features: Iterable[Tensor]) -> None:
        """Compute an expert's tensors; see :meth:`PatchModel.fit`."""
        self.expert(name).load_state_dict(self.compute(name, torch.cat(list(features))))

    @torch.no_grad()
    def merged(self, name: str) -> Self:
        """Return a copy with one expert alone."""
        alone = copy.copy(self)
        alone._modules = self._modules | {"experts": nn.ModuleList([copy.deepcopy(self.expert(name))])}
        alone._names = [name]
        return alone.eval()
