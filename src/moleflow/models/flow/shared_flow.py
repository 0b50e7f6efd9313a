"""Single flow for all categories, the baseline without experts."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from moleflow.models.flow.expert_flow import Expert, ExpertFlow
from moleflow.utils.errors import UserError

_PREFIX = "whole."  # of the expert's tensors in the base state


class SharedFlow(ExpertFlow):
    """Flow of the method's first task, trained by all tasks.

    All tasks train coupling blocks, mixer, adapter and DIA blocks. All expert names refer to the same density, so
    routing does not change any score. Closed-form parts (``adapter=closed_form_whitening``) are fitted to the first
    task only.

    Args:
        settings: Arguments of :class:`ExpertFlow`; ``base`` and ``expert_start`` have no effect and must be left at
            their defaults.

    Raises:
        UserError: If an argument is not allowed.
    """

    overridable_keys: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for key, value, default in (("base", self.base, "frozen"), ("expert_start", self.expert_start, "fresh")):
            if value != default:
                raise UserError(
                    f"model.{key}={value} must be {default} for a single shared flow, which has no experts. "
                    f"Remove model.{key} from the overrides."
                )

    @property
    def updates_shared_weights(self) -> bool:
        """Whether later tasks train weights that earlier experts use; always true."""
        return True

    @property
    def sequential_dependency(self) -> str | None:
        """The setting that makes a task depend on all earlier tasks."""
        return "a single shared flow (continual=finetune, ewc or replay)"

    def add_expert(self, name: str, **overrides: Any) -> Expert:
        """Create the shared expert, or register another name for it.

        Args:
            name: Name of the expert.
            overrides: None are allowed.

        Raises:
            UserError: If an expert of this name exists, or overrides are passed.
        """
        if not self._names:
            return super().add_expert(name, **overrides)
        self._check_new_expert(name, **overrides)
        self._register(name, self.experts[0])
        return self.expert(name)

    def fit(self, name: str, features: Iterable[Tensor], image_ids: Tensor | None = None) -> None:
        """Fit the closed-form parts if this is the first expert.

        Args:
            name: Name of the expert.
            features: Training patches in batches (B, H, W, D); iterated at most once.
            image_ids: Not used.
        """
        if name == self._names[0]:
            super().fit(name, features, image_ids)

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter; all are shared."""
        yield from super().base_parameters()
        for expert in self.experts[:1]:
            yield from expert.parameters()

    def trainable_parameters(self, names: list[str]) -> list[nn.Parameter]:
        """Return all parameters.

        Args:
            names: Names of the task's experts; not used.
        """
        return list(self.base_parameters())

    def base_state(self) -> dict[str, Tensor]:
        """Return the state dict of the flow, including the shared expert."""
        return super().base_state() | {
            f"{_PREFIX}{key}": value for expert in self.experts[:1] for key, value in expert.state_dict().items()
        }

    def load_base_state(self, state: dict[str, Tensor]) -> None:
        """Load a state dict from :meth:`base_state`.

        All experts must have been added before.

        Raises:
            RuntimeError: If names or shapes differ.
        """
        for expert in self.experts[:1]:
            expert.load_state_dict({k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)})
        super().load_base_state({key: value for key, value in state.items() if not key.startswith(_PREFIX)})

    def expert_state(self, name: str) -> dict[str, Tensor]:
        """Return an empty state dict; all tensors are in :meth:`base_state`."""
        return {}

    def load_expert_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Do nothing; all tensors are in :meth:`base_state`."""
