"""What the shared base and one expert compute together: the density of a patch.

``x -> + position code -> expert's input adapter -> spatial mixer -> coupling blocks with the expert's updates ->
expert's auxiliary blocks -> z``.
"""

import copy
from typing import Self, cast

import torch
from torch import Tensor, nn

from moleflow.features.position import position_code
from moleflow.flow.auxiliary import AuxiliaryCoupling
from moleflow.flow.context import Blur, SpatialMixer
from moleflow.flow.coupling import CouplingStack
from moleflow.flow.expert import Expert
from moleflow.flow.patch_model import PatchModel
from moleflow.losses import patch_nll


class ExpertDensity(PatchModel):
    """The mathematics of a base and its experts, whoever makes them and whatever of them learns.

    Args:
        dim: Channels D of a patch; divisible by 4 if there is a position code.
        position_code: Whether to add the 2-D sinusoidal position code.

    Attributes:
        mixer: What mixes neighbouring patches, for experts without a mixer of their own; set by the subclass.
        stack: Coupling blocks, for experts without blocks of their own; set by the subclass.
    """

    mixer: Blur | SpatialMixer | None
    stack: CouplingStack

    def __init__(self, dim: int, position_code: bool) -> None:
        super().__init__()
        self.dim = dim
        self.position_code = position_code
        self._codes: dict[tuple[int, int], Tensor] = {}

    def expert(self, name: str) -> Expert:
        """Return an expert by name; see :meth:`PatchModel.expert`."""
        return cast(Expert, super().expert(name))

    def mixer_of(self, name: str) -> Blur | SpatialMixer | None:
        """Return the mixer of an expert: the shared one, unless it has its own."""
        return self.expert(name).mixer or self.mixer

    def coded(self, x: Tensor) -> Tensor:
        """Return the patch features ``x`` (B, H, W, D) with the position code, if there is one."""
        if not self.position_code:
            return x
        grid = (x.shape[1], x.shape[2])
        code = self._codes.get(grid)
        if code is None or code.device != x.device:
            code = self._codes[grid] = position_code(*grid, self.dim).to(x.device)
        return x + code

    def prepare(self, x: Tensor, name: str) -> Tensor:
        """Return what the coupling blocks see of the patch features ``x`` (B, H, W, D): coded, adapted, mixed."""
        x = self.expert(name).adapter(self.coded(x))
        mixer = self.mixer_of(name)
        return x if mixer is None else mixer(x)

    def forward(self, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Map patch features to the latent space by one expert.

        Args:
            x: Patch features (B, H, W, D) as the backbone gives them.
            name: The expert.

        Returns:
            Latents z (B, H, W, D) and the log-determinant of each patch (B, H, W), float32. The Jacobians of adapter
            and mixer are not counted, as in the method's first implementation; :meth:`patch_scores` counts that of
            the adapter where it is known.
        """
        expert = self.expert(name)
        y = self.prepare(x, name)
        if expert.stack is not None:
            z, logdet = expert.stack(y)
        else:
            z, logdet = self.stack(y, expert.updates if len(expert.updates) else None)
        for block in expert.auxiliary:
            z, contribution = block(z)
            logdet = logdet + contribution
        return z, logdet

    def patch_scores(self, x: Tensor, name: str, pictures: Tensor | None = None) -> Tensor:
        """Return negative log-likelihoods in nats; see :meth:`PatchModel.patch_scores`."""
        z, logdet = self(x, name)
        return patch_nll(z, logdet + self.expert(name).adapter.log_determinant())

    def inverse(self, z: Tensor, name: str) -> Tensor:
        """Return the prepared grid (see :meth:`prepare`) that one expert maps to ``z`` (B, H, W, D)."""
        expert = self.expert(name)
        for block in reversed(expert.auxiliary):
            z = cast(AuxiliaryCoupling, block).inverse(z)
        if expert.stack is not None:
            return expert.stack.inverse(z)
        return self.stack.inverse(z, expert.updates if len(expert.updates) else None)

    @torch.no_grad()
    def merged(self, name: str) -> Self:
        """Return a copy with one expert alone, its updates merged into the base: the fast form for scoring.

        The copy gives the same densities up to rounding and shares no memory with this flow.
        """
        expert = self.expert(name)
        copied = copy.deepcopy(expert)
        alone = copy.copy(self)
        alone._modules = dict(self._modules)
        if expert.stack is None:
            alone.stack = copy.deepcopy(self.stack)
            if len(copied.updates):
                alone.stack.merge(copied.updates)
        else:
            alone.stack, copied.stack = cast(CouplingStack, copied.stack), None
        copied.updates = nn.ModuleList()
        alone.mixer, copied.mixer = copy.deepcopy(self.mixer_of(name)), None
        alone.experts = nn.ModuleList([copied])
        alone._names = [name]
        return alone.requires_grad_(False).eval()
