"""Base class of patch models that are fitted in closed form."""

import copy
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor

from moleflow.models.base import PatchModel
from moleflow.models.dynamic_buffers import DynamicBuffers
from moleflow.models.tensor_rule import TensorRule


class ClosedFormModel(PatchModel):
    """Patch model whose experts are computed directly from training patches.

    An expert is a set of tensors; there are no gradient steps.

    Args:
        rules: Rules for an expert's tensors by name.
    """

    def __init__(self, **rules: TensorRule) -> None:
        super().__init__()
        self._rules = rules

    @abstractmethod
    def compute(self, name: str, features: Iterable[Tensor], image_ids: Tensor) -> dict[str, Tensor]:
        """Return the tensors of an expert by name.

        All features together may not fit into memory.

        Args:
            name: Name of the expert.
            features: Training patches of the expert in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index of the training image that each entry of the concatenated batches shows.
        """

    @abstractmethod
    def compute_update(
        self, name: str, source: DynamicBuffers, features: Iterable[Tensor], image_ids: Tensor, former: int
    ) -> dict[str, Tensor]:
        """Return the tensors of an expert of former and further training images by name.

        Args:
            name: Name of the expert.
            source: The expert of the former images.
            features: Patches of the further images in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index from 0 of the further image that each entry of the concatenated batches shows.
            former: Number of grids of the former images, images times augmentations.
        """

    def add_expert(self, name: str, **overrides: Any) -> DynamicBuffers:
        """Create and register an expert with empty tensors.

        Args:
            name: Name of the expert.
            overrides: Settings that replace the model's settings for this expert; some of :attr:`overridable_keys`.

        Raises:
            UserError: If an expert of this name exists, or a setting cannot be overridden.
        """
        self._check_new_expert(name, **overrides)
        expert = DynamicBuffers(**self._rules)
        self._register(name, expert)
        return expert

    @torch.no_grad()
    def fit(self, name: str, features: Iterable[Tensor], image_ids: Tensor | None = None) -> None:
        """Compute the tensors of an expert.

        Args:
            name: Name of the expert.
            features: Training patches in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index of the training image that each entry of the concatenated batches shows. None: every
                entry shows another image.

        Raises:
            TypeError: If ``features`` can be iterated only once.
        """
        if iter(features) is features:
            raise TypeError("The features are an iterator, which can be iterated only once. Pass a list of batches.")
        ids = torch.arange(sum(len(batch) for batch in features)) if image_ids is None else image_ids
        self.expert(name).load_state_dict(self.compute(name, features, ids))

    @torch.no_grad()
    def update(self, name: str, source: str, features: Iterable[Tensor], image_ids: Tensor, former: int) -> None:
        """Compute the tensors of a new expert from those of an earlier one and from further images.

        Args:
            name: Name of the new expert.
            source: Name of the earlier expert.
            features: Patches of the further images in batches (B, H, W, D), iterated several times.
            image_ids: (N,) index from 0 of the further image that each entry of the concatenated batches shows.
            former: Number of grids that the earlier expert was fitted to, images times augmentations.
        """
        earlier = self.expert(source)
        assert isinstance(earlier, DynamicBuffers)
        self.expert(name).load_state_dict(self.compute_update(name, earlier, features, image_ids, former))

    @torch.no_grad()
    def merged(self, name: str) -> Self:
        """Return a copy that contains one expert only.

        Args:
            name: Name of the expert.
        """
        model = copy.copy(self)
        model._modules = self._modules | {"experts": torch.nn.ModuleList([copy.deepcopy(self.expert(name))])}
        model._names = [name]
        return model.eval()
