"""The whole density model: how base and experts come to be, and what of them a task trains.

What an expert owns is one module, :class:`Expert`, that can be saved, loaded or deleted without touching another one.
What base and expert compute is in :mod:`moleflow.flow.density`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from moleflow.errors import UserError, choice
from moleflow.flow.adapters import StatisticsAdapter, input_adapter
from moleflow.flow.auxiliary import AuxiliaryCoupling, auxiliary_width
from moleflow.flow.context import LEARNED_MIXERS, MIXER_MODES, Blur, SpatialMixer
from moleflow.flow.coupling import CouplingBlock, CouplingStack, new_stack
from moleflow.flow.density import ExpertDensity
from moleflow.flow.expert import Expert
from moleflow.flow.subnets import Draw
from moleflow.randomness import generator

BASE_POLICIES = ("frozen", "context", "trainable", "separate", "alone")


class ExpertFlow(ExpertDensity):
    """Normalizing flow over patch grids with one expert a category.

    Args:
        dim: Channels D of a patch; divisible by 4.
        coupling_layers: Coupling blocks of the base; 0 leaves the experts' auxiliary blocks alone.
        dia_blocks: Auxiliary coupling blocks of each expert.
        dia_hidden_ratio: Hidden width of these as a fraction of D.
        lora_rank: Rank of the experts' updates; 0 leaves them out, the task bias with them.
        task_bias: Whether experts own a bias in every shared linear layer.
        adapter: Input adapter: ``whitening``, ``statistics``, ``soft_norm`` or ``none``.
        adapter_start: Scale at which ``whitening`` starts with later experts, in (0.5, 2). At 1 their first losses are
            smaller than at the method's 1.25.
        adapter_rank: Eigenvectors that ``statistics`` keeps; at least D whitens in full.
        adapter_shrinkage: Shrinkage of the correlations in ``statistics``.
        spatial_context_mode: Mixer before the flow: ``blur`` (see :class:`Blur`), a learned one (see
            :class:`SpatialMixer`), or ``none``.
        spatial_context_kernel: Its odd kernel size.
        spatial_context_strength: Strength of ``blur``.
        scale_context_kernel: Odd kernel size of the context inside the blocks; None leaves it out and gives scale and
            shift one common hidden layer.
        position_code: Whether to add the 2-D sinusoidal position code.
        clamp: Bound of each block's log-scale.
        base: What happens to the base after the first task. ``frozen``: nothing moves. ``context``: spatial mixer,
            scale context and a global affine go on learning. ``trainable``: everything does. ``separate``: each later
            expert learns coupling blocks of its own. ``alone``: there is no base; every expert is a flow like that of a
            first task.
        expert_start: How later experts start: ``fresh``, or with the weights of the ``nearest`` expert, as far as they
            have the same shape.
        seed: Seed of every initial draw.

    Raises:
        UserError: If a value is not allowed; the message names it and the remedy.
    """

    own_keys: ClassVar[tuple[str, ...]] = ("adapter", "adapter_start", "adapter_rank", "adapter_shrinkage")

    def __init__(
        self,
        dim: int,
        coupling_layers: int = 6,
        dia_blocks: int = 2,
        dia_hidden_ratio: float = 0.5,
        lora_rank: int = 64,
        task_bias: bool = True,
        adapter: str = "whitening",
        adapter_start: float = 1.25,
        adapter_rank: int = 128,
        adapter_shrinkage: float = 0.01,
        spatial_context_mode: str = "depthwise_residual",
        spatial_context_kernel: int = 3,
        spatial_context_strength: float = 0.6,
        scale_context_kernel: int | None = 5,
        position_code: bool = True,
        clamp: float = 1.9,
        base: str = "frozen",
        expert_start: str = "fresh",
        seed: int = 0,
    ) -> None:
        super().__init__(dim, position_code)
        if dim < 4 or dim % 4:
            raise UserError(
                f"The embedding dimension {dim} is not divisible by 4. Set backbone.dim to {dim // 4 * 4 + 4}."
            )
        for key, value in (("coupling_layers", coupling_layers), ("dia_blocks", dia_blocks), ("lora_rank", lora_rank)):
            if value < 0:
                raise UserError(f"model.{key}={value} is negative. Use 0 to leave the part out.")
        if clamp <= 0 or dia_hidden_ratio <= 0:
            raise UserError("model.clamp and model.dia_hidden_ratio must be greater than 0.")
        self.coupling_layers = coupling_layers
        self.dia_blocks = dia_blocks
        self.dia_hidden_ratio = dia_hidden_ratio
        self.lora_rank = lora_rank
        self.task_bias = task_bias and lora_rank > 0
        self.adapter = adapter
        self.adapter_start = adapter_start
        self.adapter_rank = adapter_rank
        self.adapter_shrinkage = adapter_shrinkage
        self.scale_context_kernel = scale_context_kernel
        self.clamp = clamp
        self.base = choice("model.base", base, BASE_POLICIES)
        self.expert_start = choice("model.expert_start", expert_start, ("fresh", "nearest"))
        self.seed = seed
        self.mixer_mode = choice("model.spatial_context_mode", spatial_context_mode, MIXER_MODES)
        self.mixer_kernel = spatial_context_kernel
        self.mixer = None
        if self.mixer_mode == "blur":
            self.mixer = Blur(spatial_context_kernel, spatial_context_strength)
        elif base != "alone":
            self.mixer = self._new_mixer()
        self.stack = CouplingStack([])
        if base != "alone":
            self.stack = self._new_stack("base", global_affine=base in ("context", "trainable"))

    # -- experts ------------------------------------------------------------------------------------------------------

    def add_expert(self, name: str, **own: Any) -> Expert:
        """Create an expert; see :meth:`PatchModel.add_expert`."""
        self.check_new(name, **own)
        first = not self._names or self.base == "alone"

        def draw(part: str) -> torch.Generator:
            return generator(self.seed, "expert", name, part)

        stack, mixer = None, None
        if self.base == "alone":
            stack, mixer = self._new_stack("base", global_affine=False), self._new_mixer()
        elif self.base == "separate" and not first:
            stack = self._new_stack(f"own/{name}", global_affine=True)
        updates = nn.ModuleList()
        if self.lora_rank and stack is None:
            for i, block in enumerate(self.stack.blocks):
                subnet = cast(CouplingBlock, block).subnet
                updates.append(subnet.new_updates(self.lora_rank, self.task_bias, _prefixed(draw, f"block{i}")))
        width = auxiliary_width(self.dim, self.dia_hidden_ratio)
        auxiliary = [
            AuxiliaryCoupling(self.dim, width, self.clamp, bool(i % 2), _prefixed(draw, f"auxiliary{i}"))
            for i in range(self.dia_blocks)
        ]
        kind, start, rank, shrinkage = (own.get(key, getattr(self, key)) for key in ExpertFlow.own_keys)
        adapter = input_adapter(kind, self.dim, first, start, rank, shrinkage, draw)
        expert = Expert(adapter, updates, auxiliary, stack, mixer)
        self.keep(name, expert)
        return expert

    def start_from(self, name: str, nearest: str) -> None:
        """Copy the nearest expert's weights, if experts start so; see :meth:`PatchModel.start_from`."""
        if self.expert_start == "nearest":
            own, given = self.expert(name).state_dict(), self.expert(nearest).state_dict()
            same = {key: given[key] for key in own.keys() & given.keys() if own[key].shape == given[key].shape}
            self.expert(name).load_state_dict(own | same)

    def fit(self, name: str, features: Iterable[Tensor], pictures: Tensor | None = None) -> None:
        """Fit the expert's input adapter, if it is one in closed form; see :meth:`PatchModel.fit`."""
        adapter = self.expert(name).adapter
        if isinstance(adapter, StatisticsAdapter):
            coded = (self.coded(x) for x in features)
            # The blur commutes with the adapter, so what is white after both is what the adapter fits blurred.
            adapter.fit(self.mixer(x) if isinstance(self.mixer, Blur) else x for x in coded)

    @property
    def base_moves(self) -> bool:
        """Whether later tasks change what earlier experts use."""
        return self.base in ("context", "trainable")

    @property
    def needs_earlier(self) -> str | None:
        """The setting by which later tasks need those before them; see :attr:`PatchModel.needs_earlier`."""
        if self.base_moves:
            return f"model.base={self.base}"
        return "model.expert_start=nearest" if self.expert_start == "nearest" else None

    # -- what learns --------------------------------------------------------------------------------------------------

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every shared parameter."""
        yield from self.stack.parameters()
        if self.mixer is not None:
            yield from self.mixer.parameters()

    def learning_parameters(self, names: list[str]) -> list[nn.Parameter]:
        """Return what a task with these experts trains, by the base policy.

        Args:
            names: The task's experts. The task that holds the first expert of all trains the base too.
        """
        first = self._names[0] in names
        learning = [parameter for name in names for parameter in self.expert(name).parameters()]
        affine = {id(p) for key, p in self.stack.named_parameters() if ".affine." in key}
        if first:
            learning += [p for p in self.base_parameters() if self.base == "trainable" or id(p) not in affine]
        elif self.base == "trainable":
            learning += list(self.base_parameters())
        elif self.base == "context":
            keys = (".affine.", ".context.")
            learning += [p for key, p in self.stack.named_parameters() if any(k in key for k in keys)]
            learning += [] if self.mixer is None else list(self.mixer.parameters())
        return learning

    def _new_mixer(self) -> SpatialMixer | None:
        if self.mixer_mode not in LEARNED_MIXERS:
            return None
        return SpatialMixer(self.dim, self.mixer_mode, self.mixer_kernel, generator(self.seed, "mixer"))

    def _new_stack(self, where: str, global_affine: bool) -> CouplingStack:
        return new_stack(
            self.dim, self.coupling_layers, self.scale_context_kernel, self.clamp, global_affine, self.seed, where
        )


def _prefixed(draw: Draw, prefix: str) -> Draw:
    return lambda part: draw(f"{prefix}/{part}")
