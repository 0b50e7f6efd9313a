"""Normalizing flow over patch grids with a shared base and named experts.

``x -> + positional encoding -> expert's input adapter -> spatial mixer -> coupling blocks with the expert's updates ->
expert's DIA blocks -> z``.

Every tensor of an expert is in one module, :class:`Expert`, which can be saved, loaded or deleted independently.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from moleflow.models.base import PatchModel
from moleflow.models.flow.coupling import CouplingBlock, CouplingStack, new_stack
from moleflow.models.flow.dia import DIABlock, dia_width
from moleflow.models.flow.input_adapters import ClosedFormWhitening, InputAdapter, input_adapter
from moleflow.models.flow.lora import Draw
from moleflow.models.flow.loss import patch_nll
from moleflow.models.flow.positional_encoding import check_embedding_dim, positional_encoding
from moleflow.models.flow.spatial_mixer import MIXER_MODES, TRAINED_MIXERS, MeanBlur, SpatialMixer
from moleflow.utils.errors import check_choice, check_range
from moleflow.utils.random import generator

BASE_POLICIES = ("frozen", "context", "trainable", "separate", "none")


class Expert(nn.Module):
    """Modules of one expert.

    Args:
        adapter: Input adapter.
        updates: Low-rank updates of the shared linear layers, one entry per coupling block.
        dia: DIA blocks.
        stack: The expert's own coupling blocks, which replace the shared ones if ``base`` is ``separate`` or ``none``.
        mixer: The expert's own trained mixer, which replaces the shared one if ``base`` is ``none``.
    """

    def __init__(
        self,
        adapter: InputAdapter,
        updates: nn.ModuleList,
        dia: list[DIABlock],
        stack: CouplingStack | None = None,
        mixer: SpatialMixer | None = None,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.updates = updates
        self.dia = nn.ModuleList(dia)
        self.stack = stack
        self.mixer = mixer


class ExpertFlow(PatchModel):
    """Normalizing flow over patch grids with one expert per category (or task).

    Args:
        dim: Channels D of a patch, divisible by 4.
        coupling_layers: Coupling blocks of the base; 0 leaves the DIA blocks only.
        dia_blocks: DIA blocks per expert.
        dia_hidden_ratio: Hidden width of the DIA blocks as a fraction of D.
        lora_rank: Rank of the experts' updates; 0 omits them, including the task bias.
        task_bias: Whether each expert has its own bias in every shared linear layer.
        adapter: Input adapter, ``affine_norm``, ``closed_form_whitening``, ``soft_norm`` or ``none``; see
            :mod:`moleflow.models.flow.input_adapters`.
        adapter_start: Initial scale of ``affine_norm`` for later experts, in (0.5, 2). At 1, their initial losses are
            smaller than at the method's 1.25.
        adapter_rank: Leading eigenvectors of ``closed_form_whitening``; D or more selects all.
        adapter_shrinkage: Shrinkage of the correlation matrix in ``closed_form_whitening``, in (0, 1].
        spatial_context_mode: Mixer before the flow, ``blur`` (:class:`MeanBlur`), a mode of :class:`SpatialMixer`, or
            ``none``.
        spatial_context_kernel: Odd kernel size of the mixer.
        spatial_context_strength: Strength of ``blur``, in [0, 1].
        scale_context_kernel: Odd kernel size of the scale context in the coupling blocks. None omits the context, and
            scale and shift share one hidden layer.
        position_code: Whether to add the 2-D sinusoidal positional encoding.
        clamp: Bound of the log-scale in each block.
        base: Training of the base after the first task. ``frozen``: none. ``context``: spatial mixer, scale context and
            a global affine. ``trainable``: all parameters. ``separate``: each later expert trains its own coupling
            blocks. ``none``: there is no shared base; every expert is a whole flow like that of a first task.
        expert_start: Initialization of later experts, ``fresh``, or ``nearest`` for the weights of the most similar
            expert, as far as shapes agree.
        seed: Seed of all initial values.

    Raises:
        UserError: If an argument is not allowed; the message names the config key and the remedy.

    Examples:
        >>> import torch
        >>> flow = ExpertFlow(dim=8, coupling_layers=2, lora_rank=2)
        >>> _ = flow.add_expert("bottle")
        >>> x = torch.randn(1, 4, 5, 8)
        >>> z, logdet = flow(x, "bottle")
        >>> z.shape, logdet.shape
        (torch.Size([1, 4, 5, 8]), torch.Size([1, 4, 5]))
        >>> flow.patch_scores(x, "bottle").shape
        torch.Size([1, 4, 5])
    """

    overridable_keys: ClassVar[tuple[str, ...]] = ("adapter", "adapter_start", "adapter_rank", "adapter_shrinkage")

    mixer: MeanBlur | SpatialMixer | None
    stack: CouplingStack

    def __init__(
        self,
        dim: int,
        coupling_layers: int = 6,
        dia_blocks: int = 2,
        dia_hidden_ratio: float = 0.5,
        lora_rank: int = 64,
        task_bias: bool = True,
        adapter: str = "affine_norm",
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
        super().__init__()
        check_embedding_dim(dim)
        for key, value in (("coupling_layers", coupling_layers), ("dia_blocks", dia_blocks), ("lora_rank", lora_rank)):
            check_range(f"model.{key}", value, 0, hint="0 omits this part.")
        check_range("model.clamp", clamp, 0, low_open=True)
        check_range("model.dia_hidden_ratio", dia_hidden_ratio, 0, low_open=True)
        self.dim = dim
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
        self.position_code = position_code
        self.clamp = clamp
        self.base = check_choice("model.base", base, BASE_POLICIES)
        self.expert_start = check_choice("model.expert_start", expert_start, ("fresh", "nearest"))
        self.seed = seed
        self.mixer_mode = check_choice("model.spatial_context_mode", spatial_context_mode, MIXER_MODES)
        self.mixer_kernel = spatial_context_kernel
        self._encodings: dict[tuple[int, int], Tensor] = {}
        self.mixer = None
        if self.mixer_mode == "blur":
            self.mixer = MeanBlur(spatial_context_kernel, spatial_context_strength)
        elif base != "none":
            self.mixer = self._new_mixer()
        self.stack = CouplingStack([])
        if base != "none":
            self.stack = self._new_stack("base", global_affine=base in ("context", "trainable"))

    @property
    def updates_shared_weights(self) -> bool:
        """Whether later tasks train weights that earlier experts use."""
        return self.base in ("context", "trainable")

    @property
    def scale_context(self) -> str | None:
        """The setting by which a patch depends on its neighbors within the coupling blocks, or None."""
        if not self.coupling_layers or self.scale_context_kernel is None:
            return None
        return f"model.scale_context_kernel={self.scale_context_kernel}"

    @property
    def sequential_dependency(self) -> str | None:
        """The setting that makes a task depend on all earlier tasks, or None."""
        if self.updates_shared_weights:
            return f"model.base={self.base}"
        return "model.expert_start=nearest" if self.expert_start == "nearest" else None

    def add_expert(self, name: str, **overrides: Any) -> Expert:
        """Create and register an expert.

        Args:
            name: Name of the expert.
            overrides: Settings that replace the model's settings for this expert; some of :attr:`overridable_keys`.

        Raises:
            UserError: If an expert of this name exists, or a setting cannot be overridden or has a wrong value.
        """
        self._check_new_expert(name, **overrides)
        first = not self._names or self.base == "none"

        def draw(part: str) -> torch.Generator:
            return generator(self.seed, "expert", name, part)

        stack, mixer = None, None
        if self.base == "none":
            stack, mixer = self._new_stack("base", global_affine=False), self._new_mixer()
        elif self.base == "separate" and not first:
            stack = self._new_stack(f"own/{name}", global_affine=True)
        updates = nn.ModuleList()
        if self.lora_rank and stack is None:
            for i, block in enumerate(self.stack.blocks):
                subnet = cast(CouplingBlock, block).subnet
                updates.append(subnet.new_updates(self.lora_rank, self.task_bias, _prefixed(draw, f"block{i}")))
        width = dia_width(self.dim, self.dia_hidden_ratio)
        dia = [
            DIABlock(self.dim, width, self.clamp, bool(i % 2), _prefixed(draw, f"auxiliary{i}"))
            for i in range(self.dia_blocks)
        ]
        kind, start, rank, shrinkage = (overrides.get(key, getattr(self, key)) for key in ExpertFlow.overridable_keys)
        adapter = input_adapter(kind, self.dim, first, start, rank, shrinkage, draw)
        expert = Expert(adapter, updates, dia, stack, mixer)
        self._register(name, expert)
        return expert

    def initialize_from(self, name: str, nearest: str) -> None:
        """Copy the weights of the most similar expert, as far as shapes agree.

        This does nothing unless ``expert_start`` is ``nearest``.

        Args:
            name: Name of the new expert.
            nearest: Name of the most similar expert.
        """
        if self.expert_start == "nearest":
            self._copy_expert(name, nearest)

    def _copy_expert(self, name: str, source: str) -> None:
        """Copy the weights of another expert, as far as shapes agree."""
        state, other = self.expert(name).state_dict(), self.expert(source).state_dict()
        matching = {key: other[key] for key in state.keys() & other.keys() if state[key].shape == other[key].shape}
        self.expert(name).load_state_dict(state | matching)

    @torch.no_grad()
    def update(self, name: str, source: str, features: Iterable[Tensor], image_ids: Tensor, former: int) -> None:
        """Copy the weights of an earlier expert, with which the training on further images begins.

        Without gradient steps, the adapter ``closed_form_whitening`` is computed from former and further images.

        Args:
            name: Name of the new expert.
            source: Name of the earlier expert.
            features: Patches of the further images in batches (B, H, W, D); iterated at most once.
            image_ids: (N,) index from 0 of the further image that each entry of the concatenated batches shows.
            former: Number of grids that the earlier expert was fitted to, images times augmentations.
        """
        self._copy_expert(name, source)
        adapter, earlier = self.expert(name).adapter, self.expert(source).adapter
        if isinstance(adapter, ClosedFormWhitening) and not self.trainable_parameters([name]):
            assert isinstance(earlier, ClosedFormWhitening)
            adapter.update(earlier, self._adapter_input(features), former / len(image_ids))

    def fit(self, name: str, features: Iterable[Tensor], image_ids: Tensor | None = None) -> None:
        """Fit the expert's input adapter if it is ``closed_form_whitening``.

        Args:
            name: Name of the expert.
            features: Training patches in batches (B, H, W, D); iterated at most once.
            image_ids: Not used.
        """
        adapter = self.expert(name).adapter
        if isinstance(adapter, ClosedFormWhitening):
            adapter.fit(self._adapter_input(features))

    def _adapter_input(self, features: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the patches that the adapter ``closed_form_whitening`` is fitted to."""
        encoded = (self.add_positional_encoding(x) for x in features)
        # The blur commutes with the adapter. Fitting to blurred patches whitens the input of the coupling blocks.
        return (self.mixer(x) if isinstance(self.mixer, MeanBlur) else x for x in encoded)

    def expert(self, name: str) -> Expert:
        """Return an expert by name.

        Raises:
            UserError: If it does not exist; the message suggests the closest name.
        """
        return cast(Expert, super().expert(name))

    def mixer_of(self, name: str) -> MeanBlur | SpatialMixer | None:
        """Return the mixer of an expert, which is its own or else the shared one."""
        return self.expert(name).mixer or self.mixer

    def add_positional_encoding(self, x: Tensor) -> Tensor:
        """Return patch features plus the positional encoding.

        They are returned unchanged if ``position_code`` is false.

        Args:
            x: Patch features (B, H, W, D) from the backbone.
        """
        if not self.position_code:
            return x
        grid = (x.shape[1], x.shape[2])
        encoding = self._encodings.get(grid)
        if encoding is None or encoding.device != x.device:
            encoding = self._encodings[grid] = positional_encoding(*grid, self.dim).to(x.device)
        return x + encoding

    def prepare(self, x: Tensor, name: str) -> Tensor:
        """Return the input of the coupling blocks.

        It is the result of positional encoding, adapter and mixer.

        Args:
            x: Patch features (B, H, W, D) from the backbone.
            name: Name of the expert.
        """
        x = self.expert(name).adapter(self.add_positional_encoding(x))
        mixer = self.mixer_of(name)
        return x if mixer is None else mixer(x)

    def forward(self, x: Tensor, name: str, patches: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map patch features to the latent space of one expert.

        Args:
            x: Patch features (B, H, W, D) from the backbone.
            name: Name of the expert.
            patches: Indices (B, n) of the patches of each grid that are mapped, row by row, as a grid of one row. They
                are selected after the mixer, whose window is complete, so there must be no :attr:`scale_context`. None:
                all patches.

        Returns:
            Latents z (B, H, W, D) and the log-determinant per patch (B, H, W), float32. It omits the Jacobians of
            adapter and mixer, as in the first implementation of the method; :meth:`patch_scores` adds that of the
            adapter if it is constant.
        """
        expert = self.expert(name)
        y = self.prepare(x, name)
        if patches is not None:
            y = y.flatten(1, 2).take_along_dim(patches[:, :, None], 1)[:, None]
        if expert.stack is not None:
            z, logdet = expert.stack(y)
        else:
            z, logdet = self.stack(y, expert.updates if len(expert.updates) else None)
        for block in expert.dia:
            z, contribution = block(z)
            logdet = logdet + contribution
        return z, logdet

    def patch_scores(self, x: Tensor, name: str, image_ids: Tensor | None = None) -> Tensor:
        """Return the negative log-likelihood of each patch in nats, (B, H, W) float32.

        Args:
            x: Patch features (B, H, W, D) from the backbone.
            name: Name of the expert.
            image_ids: Not used.
        """
        z, logdet = self(x, name)
        return patch_nll(z, logdet + self.expert(name).adapter.log_determinant())

    def inverse(self, z: Tensor, name: str) -> Tensor:
        """Return the input of the coupling blocks for ``z``, for testing and sampling.

        Args:
            z: Latents (B, H, W, D).
            name: Name of the expert.

        Returns:
            Grid (B, H, W, D) as returned by :meth:`prepare`.
        """
        expert = self.expert(name)
        for block in reversed(expert.dia):
            z = cast(DIABlock, block).inverse(z)
        if expert.stack is not None:
            return expert.stack.inverse(z)
        return self.stack.inverse(z, expert.updates if len(expert.updates) else None)

    @torch.no_grad()
    def merged(self, name: str) -> Self:
        """Return a copy that contains one expert only, its updates merged into the base.

        The copy has the same densities up to rounding, scores fastest and shares no memory with this flow.

        Args:
            name: Name of the expert.
        """
        expert = self.expert(name)
        expert_copy = copy.deepcopy(expert)
        flow = copy.copy(self)
        flow._modules = dict(self._modules)
        if expert.stack is None:
            flow.stack = copy.deepcopy(self.stack)
            if len(expert_copy.updates):
                flow.stack.merge(expert_copy.updates)
        else:
            flow.stack, expert_copy.stack = cast(CouplingStack, expert_copy.stack), None
        expert_copy.updates = nn.ModuleList()
        flow.mixer, expert_copy.mixer = copy.deepcopy(self.mixer_of(name)), None
        flow.experts = nn.ModuleList([expert_copy])
        flow._names = [name]
        return flow.requires_grad_(False).eval()

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter that all experts share."""
        yield from self.stack.parameters()
        if self.mixer is not None:
            yield from self.mixer.parameters()

    def trainable_parameters(self, names: list[str]) -> list[nn.Parameter]:
        """Return the parameters that a task trains, which depend on the setting ``base``.

        Args:
            names: Names of the task's experts. The task that includes the first expert also trains the base.
        """
        first = self._names[0] in names
        parameters = [parameter for name in names for parameter in self.expert(name).parameters()]
        affine = {id(p) for key, p in self.stack.named_parameters() if ".affine." in key}
        if first:
            parameters += [p for p in self.base_parameters() if self.base == "trainable" or id(p) not in affine]
        elif self.base == "trainable":
            parameters += list(self.base_parameters())
        elif self.base == "context":
            keys = (".affine.", ".context.")
            parameters += [p for key, p in self.stack.named_parameters() if any(k in key for k in keys)]
            parameters += [] if self.mixer is None else list(self.mixer.parameters())
        return parameters

    def _new_mixer(self) -> SpatialMixer | None:
        if self.mixer_mode not in TRAINED_MIXERS:
            return None
        return SpatialMixer(self.dim, self.mixer_mode, self.mixer_kernel, generator(self.seed, "mixer"))

    def _new_stack(self, where: str, global_affine: bool) -> CouplingStack:
        return new_stack(
            self.dim, self.coupling_layers, self.scale_context_kernel, self.clamp, global_affine, self.seed, where
        )


def _prefixed(draw: Draw, prefix: str) -> Draw:
    return lambda part: draw(f"{prefix}/{part}")
