"""What every model of patches is, the flow and its rivals alike: experts by name, each able to score patches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from moleflow.errors import UserError, choice, nearest


class PatchModel(nn.Module, ABC):
    """Scores patch grids by one of its experts; whatever fulfils this can be trained, saved, measured and reported.

    A life: :meth:`add_expert`, :meth:`start_from`, :meth:`fit` with the expert's training patches, gradient steps on
    :meth:`learning_parameters` if there are any, then :meth:`patch_scores`.
    """

    own_keys: ClassVar[tuple[str, ...]] = ()
    """Settings of the model that an expert may have of its own; see :meth:`add_expert`."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList()
        self._names: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the experts in the order of their arrival."""
        return tuple(self._names)

    @property
    def base_moves(self) -> bool:
        """Whether later tasks change what earlier experts use."""
        return False

    @property
    def needs_earlier(self) -> str | None:
        """The setting, if there is one, by which a task after the first needs all those before it."""
        return None

    @abstractmethod
    def add_expert(self, name: str, **own: Any) -> nn.Module:
        """Create an expert; the only place where parameters appear after construction.

        Args:
            name: Its name.
            own: Settings of its own instead of the model's, some of :attr:`own_keys`.

        Raises:
            UserError: If an expert of this name is there already, or a setting cannot be its own.
        """

    @abstractmethod
    def fit(self, name: str, features: Iterable[Tensor], pictures: Tensor | None = None) -> None:
        """Set in closed form what an expert takes from its training patches, before any gradient step.

        Args:
            name: The expert.
            features: Its training patches in parts (B, H, W, D), gone through at most once.
            pictures: (N,) the training picture that each entry of the joined parts shows, as some show one picture
                turned; None: each shows its own.
        """

    def start_from(self, name: str, nearest: str) -> None:
        """Offer a fresh expert the weights of the one whose training pictures are most like its own.

        Args:
            name: The fresh expert.
            nearest: The other one.
        """

    @abstractmethod
    def patch_scores(self, x: Tensor, name: str, pictures: Tensor | None = None) -> Tensor:
        """Return each patch's score under one expert, (B, H, W) float32; larger is more anomalous.

        Training pictures that are named as such get the scores they would have, had the expert not remembered their own
        patches: what is told from them (a scale, a limit of what is normal) then holds for new pictures. A model that
        remembers no patches scores them as any other picture.

        Args:
            x: Patch features (B, H, W, D) as the backbone gives them.
            name: The expert.
            pictures: (B,) training pictures as :meth:`fit` counts them; None for others.
        """

    @abstractmethod
    def merged(self, name: str) -> Self:
        """Return a copy with one expert alone, in the form that scores fastest."""

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every shared parameter."""
        yield from ()

    def learning_parameters(self, names: list[str]) -> list[nn.Parameter]:
        """Return what a task with these experts trains by gradient; nothing, if all is in closed form."""
        return []

    def numbers(self, name: str | None = None) -> int:
        """Return how many numbers an expert keeps, trained and fitted, or those that all share."""
        state = self.base_state() if name is None else self.expert_state(name)
        return sum(value.numel() for value in state.values() if value.is_floating_point())

    def expert(self, name: str) -> nn.Module:
        """Return an expert by name.

        Raises:
            UserError: If there is none; the message offers the nearest name.
        """
        if name not in self._names:
            known = ", ".join(self._names) or "none"
            raise UserError(f"There is no expert named {name!r} (known: {known}).{nearest(name, self._names)}")
        return self.experts[self._names.index(name)]

    def check_new(self, name: str, **own: Any) -> None:
        """Make sure that a name is free, and that an expert can have these settings of its own.

        Raises:
            UserError: If it is not.
        """
        for key in own:
            choice(f"a setting of expert {name!r}", key, self.own_keys)
        if name in self._names:
            raise UserError(f"An expert named {name!r} is there already. Choose another name or remove it first.")

    def keep(self, name: str, expert: nn.Module) -> None:
        """Take a new expert in, on the model's device."""
        device = next(self.parameters(), next(self.buffers(), torch.empty(0))).device
        self.experts.append(expert.to(device))
        self._names.append(name)

    def expert_state(self, name: str) -> dict[str, Tensor]:
        """Return the tensors that one expert owns, by name."""
        return self.expert(name).state_dict()

    def load_expert_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Load what :meth:`expert_state` returned.

        Raises:
            RuntimeError: If names or shapes differ.
        """
        self.expert(name).load_state_dict(state)

    def base_state(self) -> dict[str, Tensor]:
        """Return the tensors that all experts share, by name."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("experts.")}

    def load_base_state(self, state: dict[str, Tensor]) -> None:
        """Load what :meth:`base_state` returned.

        Raises:
            RuntimeError: If names or shapes differ.
        """
        own = {key: value for key, value in self.state_dict().items() if key.startswith("experts.")}
        self.load_state_dict({**state, **own}, strict=True)
