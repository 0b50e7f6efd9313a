"""One flow for all categories: what learning in turn does to a model without experts."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from moleflow.errors import UserError
from moleflow.flow import Expert, ExpertFlow


class OneFlow(ExpertFlow):
    """The flow of the method's first task, trained on in every later one: blocks, mixer, adapter and auxiliary blocks.

    Its experts are names that all stand for the same density, so the router's choice changes no score. What is fitted
    in closed form (``adapter=statistics``) is fitted to the first task.

    Args:
        settings: Those of :class:`ExpertFlow`; ``base`` and ``expert_start`` have nothing to decide and must be left.

    Raises:
        UserError: If a value is not allowed.
    """

    own_keys: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.base != "frozen" or self.expert_start != "fresh":
            raise UserError(
                "One flow for all has no base beside experts. Leave model.base=frozen and model.expert_start=fresh."
            )

    @property
    def base_moves(self) -> bool:
        """Whether later tasks change what earlier experts use: they do."""
        return True

    @property
    def needs_earlier(self) -> str | None:
        """The setting by which later tasks need those before them; see :attr:`PatchModel.needs_earlier`."""
        return "one flow for all (continual=finetune, ewc, replay)"

    def add_expert(self, name: str, **own: Any) -> Expert:
        """Give the one density another name; see :meth:`PatchModel.add_expert`."""
        if not self._names:
            return super().add_expert(name, **own)
        self.check_new(name, **own)
        self.keep(name, self.experts[0])
        return self.expert(name)

    def fit(self, name: str, features: Iterable[Tensor], pictures: Tensor | None = None) -> None:
        """Fit what is in closed form to the first task; see :meth:`ExpertFlow.fit`."""
        if name == self._names[0]:
            super().fit(name, features, pictures)

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter: all are shared."""
        yield from super().base_parameters()
        for expert in self.experts[:1]:
            yield from expert.parameters()

    def learning_parameters(self, names: list[str]) -> list[nn.Parameter]:
        """Return all parameters; see :meth:`ExpertFlow.learning_parameters`."""
        return list(self.base_parameters())

    def base_state(self) -> dict[str, Tensor]:
        """Return all tensors; see :meth:`PatchModel.base_state`."""
        return super().base_state() | {
            f"whole.{key}": value for expert in self.experts[:1] for key, value in expert.state_dict().items()
        }

    def load_base_state(self, state: dict[str, Tensor]) -> None:
        """Load what :meth:`base_state` returned; the names are there already."""
        for expert in self.experts[:1]:
            expert.load_state_dict({k.removeprefix("whole."): v for k, v in state.items() if k.startswith("whole.")})
        super().load_base_state({key: value for key, value in state.items() if not key.startswith("whole.")})

    def expert_state(self, name: str) -> dict[str, Tensor]:
        """Return nothing: an expert is a name."""
        return {}

    def load_expert_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Load nothing."""
