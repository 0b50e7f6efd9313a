"""Interface of all patch models."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from moleflow.models.dynamic_buffers import DynamicBuffers
from moleflow.models.tensor_rule import TensorRule
from moleflow.utils.errors import UserError, did_you_mean


class PatchModel(nn.Module, ABC):
    """Base class of patch models, whose named experts score patch grids.

    The methods are called in this order: :meth:`add_expert`, :meth:`initialize_from`, :meth:`fit` with the expert's
    training patches, gradient steps on :meth:`trainable_parameters` if there are any, then :meth:`patch_scores`.
    """

    overridable_keys: ClassVar[tuple[str, ...]] = ()
    """Settings of the model that :meth:`add_expert` accepts as overrides for one expert."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList()
        self._names: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the experts in the order in which they were added."""
        return tuple(self._names)

    @property
    def excludes_training_images(self) -> bool:
        """Whether :meth:`patch_scores` with ``image_ids`` scores training images as if the expert lacked them."""
        return False

    @property
    def updates_shared_weights(self) -> bool:
        """Whether later tasks train weights that earlier experts use."""
        return False

    @property
    def sequential_dependency(self) -> str | None:
        """The setting that makes a task depend on all earlier tasks.

        None if tasks are independent; only then can tasks after the first be trained in parallel.
        """
        return None

    @abstractmethod
    def add_expert(self, name: str, **overrides: Any) -> nn.Module:
        """Create and register an expert.

        Parameters are created only here and at construction.

        Args:
            name: Name of the expert.
            overrides: Settings that replace the model's settings for this expert; some of :attr:`overridable_keys`.

        Raises:
            UserError: If an expert of this name exists, or a setting cannot be overridden.
        """

    @abstractmethod
    def fit(self, name: str, features: Iterable[Tensor], image_ids: Tensor | None = None) -> None:
        """Fit the closed-form parts of an expert to its training patches.

        This precedes all gradient steps.

        Args:
            name: Name of the expert.
            features: Training patches in batches (B, H, W, D), which some models iterate several times.
            image_ids: (N,) index of the training image, or of the group of training images, that each entry of the
                concatenated batches shows. Entries share an index if they show augmentations of one image, or images of
                one group (``dataset.group``). None: every entry shows another image.
        """

    @abstractmethod
    def update(self, name: str, source: str, features: Iterable[Tensor], image_ids: Tensor, former: int) -> None:
        """Fit a new expert to the training images of an earlier one and to further images of the same category.

        Only the tensors of the earlier expert are used, not its images. It is not changed.

        Args:
            name: Name of the new expert, which has the settings of the earlier one.
            source: Name of the earlier expert.
            features: Patches of the further images in batches (B, H, W, D), which some models iterate several times.
            image_ids: (N,) index from 0 of the further image that each entry of the concatenated batches shows.
            former: Number of grids that the earlier expert was fitted to, images times augmentations.
        """

    def initialize_from(self, name: str, nearest: str) -> None:
        """Initialize a new expert from the one whose training images are most similar.

        By default this does nothing.

        Args:
            name: Name of the new expert.
            nearest: Name of the most similar expert.
        """

    @abstractmethod
    def patch_scores(self, x: Tensor, name: str, image_ids: Tensor | None = None) -> Tensor:
        """Return the anomaly scores of all patches, (B, H, W) float32.

        Larger scores are more anomalous.

        For training images (``image_ids`` given), memory-bank patches of the same image or group are excluded from the
        search for nearest neighbors. Statistics of training scores, such as calibration and thresholds, are then valid
        for new images. Models without a memory bank ignore ``image_ids``.

        Args:
            x: Patch features (B, H, W, D) from the backbone.
            name: Name of the expert.
            image_ids: (B,) indices of training images or groups, in the numbering of :meth:`fit`; None for all other
                images.
        """

    @abstractmethod
    def merged(self, name: str) -> Self:
        """Return a copy that contains one expert only, in the form that scores fastest.

        Args:
            name: Name of the expert.
        """

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter that all experts share."""
        yield from ()

    def trainable_parameters(self, names: list[str]) -> list[nn.Parameter]:
        """Return the parameters that a task trains by gradient descent.

        The list is empty for closed-form models.

        Args:
            names: Names of the task's experts.
        """
        return []

    def num_values(self, name: str | None = None) -> int:
        """Return the number of floating-point values, trained and fitted.

        Args:
            name: Name of the expert; None for the shared base.
        """
        state = self.base_state() if name is None else self.expert_state(name)
        return sum(value.numel() for value in state.values() if value.is_floating_point())

    def remove_expert(self, name: str) -> None:
        """Remove an expert; the others are not changed.

        Raises:
            UserError: If it does not exist.
        """
        self.expert(name)
        del self.experts[self._names.index(name)]
        self._names.remove(name)

    def expert(self, name: str) -> nn.Module:
        """Return an expert by name.

        Raises:
            UserError: If it does not exist; the message suggests the closest name.
        """
        if name not in self._names:
            existing = ", ".join(self._names) or "none"
            hint = did_you_mean(name, self._names)
            raise UserError(f"There is no expert named {name!r} (existing experts: {existing}).{hint}")
        return self.experts[self._names.index(name)]

    def expert_state(self, name: str) -> dict[str, Tensor]:
        """Return the state dict of one expert."""
        return self.expert(name).state_dict()

    def load_expert_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Load a state dict from :meth:`expert_state`.

        Raises:
            RuntimeError: If names or shapes differ.
        """
        self.expert(name).load_state_dict(state)

    def base_state(self) -> dict[str, Tensor]:
        """Return the state dict of the shared base."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("experts.")}

    def load_base_state(self, state: dict[str, Tensor]) -> None:
        """Load a state dict from :meth:`base_state`; experts are not changed.

        Raises:
            RuntimeError: If names or shapes differ.
        """
        experts = {key: value for key, value in self.state_dict().items() if key.startswith("experts.")}
        self.load_state_dict({**state, **experts}, strict=True)

    def expert_rules(self, name: str) -> dict[str, TensorRule]:
        """Return the rules for the tensors of :meth:`expert_state`, before or after they are loaded."""
        rules = {key: TensorRule.of(value) for key, value in self.expert_state(name).items()}
        for prefix, module in self.expert(name).named_modules():
            if isinstance(module, DynamicBuffers):
                rules |= {f"{prefix}.{key}".removeprefix("."): rule for key, rule in module.rules.items()}
        return rules

    def base_rules(self) -> dict[str, TensorRule]:
        """Return the rules for the tensors of :meth:`base_state`; all experts must have been added before."""
        return {key: TensorRule.of(value) for key, value in self.base_state().items()}

    def _check_new_expert(self, name: str, **overrides: Any) -> None:
        """Check the name and the overrides of a new expert.

        Raises:
            UserError: If the name exists, or an override is not in :attr:`overridable_keys`.
        """
        for key in overrides:
            if key not in self.overridable_keys:
                raise UserError(
                    f"model.{key} cannot be overridden for expert {name!r}.{did_you_mean(key, self.overridable_keys)} "
                    f"Allowed: {', '.join(self.overridable_keys) or 'none'}."
                )
        if name in self._names:
            raise UserError(f"An expert named {name!r} exists already. Choose another name.")

    def _register(self, name: str, expert: nn.Module) -> None:
        """Add a new expert on the model's device."""
        device = next(self.parameters(), next(self.buffers(), torch.empty(0))).device
        self.experts.append(expert.to(device))
        self._names.append(name)
