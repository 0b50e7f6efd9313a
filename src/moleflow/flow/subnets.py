"""The networks inside a coupling block: from the passive half to raw log-scale and shift of the active half."""

from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.flow.context import ScaleContext
from moleflow.flow.lora import LowRankUpdate, SharedLinear

Draw = Callable[[str], torch.Generator]
"""Gives the generator that belongs to a named part."""


class Subnet(nn.Module):
    """Shared linear layers and, by the same names, the updates that one expert adds to them."""

    def linears(self) -> dict[str, SharedLinear]:
        """Return the shared linear layers by name."""
        return {name: child for name, child in self.named_children() if isinstance(child, SharedLinear)}

    def new_updates(self, rank: int, bias: bool, draw: Draw) -> nn.ModuleDict:
        """Return one fresh :class:`LowRankUpdate` for each linear layer."""
        return nn.ModuleDict({name: layer.new_update(rank, bias, draw(name)) for name, layer in self.linears().items()})

    def merge(self, updates: nn.ModuleDict) -> None:
        """Add one expert's updates to the weights for good."""
        for name, layer in self.linears().items():
            layer.merge(cast(LowRankUpdate, updates[name]))

    @abstractmethod
    def forward(self, x: Tensor, updates: nn.ModuleDict | None = None) -> tuple[Tensor, Tensor]:
        """Return raw log-scale and shift of the active half.

        Args:
            x: Passive half (B, H, W, in_dim).
            updates: One expert's updates by layer name, or None for the base alone.

        Returns:
            Two grids (B, H, W, out_dim).
        """


def _update(updates: nn.ModuleDict | None, name: str) -> LowRankUpdate | None:
    return None if updates is None else cast(LowRankUpdate, updates[name])


class ContextSubnet(Subnet):
    """Separate towers for scale and shift; only the scale tower sees the neighbours.

    ``s = W2 relu(W1 [x; c(x)])`` and ``t = V2 relu(V1 x)`` with the scale context c.

    Args:
        in_dim: Width of the passive half.
        out_dim: Width of the active half.
        context_kernel: Odd kernel size of the scale context.
        draw: Generators by layer name.
    """

    def __init__(self, in_dim: int, out_dim: int, context_kernel: int, draw: Draw) -> None:
        super().__init__()
        hidden = 2 * in_dim
        self.context = ScaleContext(in_dim, context_kernel)
        self.scale_in = SharedLinear(2 * in_dim, hidden, draw("scale_in"))
        self.scale_out = SharedLinear(hidden, out_dim, draw("scale_out"))
        self.shift_in = SharedLinear(in_dim, hidden, draw("shift_in"))
        self.shift_out = SharedLinear(hidden, out_dim, draw("shift_out"))

    def forward(self, x: Tensor, updates: nn.ModuleDict | None = None) -> tuple[Tensor, Tensor]:
        """Return raw log-scale and shift; see :meth:`Subnet.forward`."""
        patches = x.shape[:-1]
        with_context = torch.cat((x, self.context(x)), -1).flatten(0, -2)
        scale = F.relu(self.scale_in(with_context, _update(updates, "scale_in")), inplace=True)
        shift = F.relu(self.shift_in(x.flatten(0, -2), _update(updates, "shift_in")), inplace=True)
        return (
            self.scale_out(scale, _update(updates, "scale_out")).view(*patches, -1),
            self.shift_out(shift, _update(updates, "shift_out")).view(*patches, -1),
        )


class PlainSubnet(Subnet):
    """One hidden layer for scale and shift together; sees no neighbours.

    Args:
        in_dim: Width of the passive half.
        out_dim: Width of the active half.
        draw: Generators by layer name.
    """

    def __init__(self, in_dim: int, out_dim: int, draw: Draw) -> None:
        super().__init__()
        self.hidden = SharedLinear(in_dim, 2 * in_dim, draw("hidden"))
        self.out = SharedLinear(2 * in_dim, 2 * out_dim, draw("out"))

    def forward(self, x: Tensor, updates: nn.ModuleDict | None = None) -> tuple[Tensor, Tensor]:
        """Return raw log-scale and shift; see :meth:`Subnet.forward`."""
        hidden = F.relu(self.hidden(x.flatten(0, -2), _update(updates, "hidden")), inplace=True)
        scale, shift = self.out(hidden, _update(updates, "out")).view(*x.shape[:-1], -1).chunk(2, -1)
        return scale, shift
