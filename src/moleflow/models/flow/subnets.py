"""Networks that compute log-scale and shift in a coupling block."""

from abc import abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.models.flow.functional import check_kernel, depthwise
from moleflow.models.flow.lora import Draw, LoRALinear, LoRAUpdate


class ScaleContextConv(nn.Module):
    """Depthwise convolution ``alpha * DWConv_k(x)`` with a bounded gate alpha.

    It is the context of the scale network. The convolution starts at zero.

    Args:
        dim: Channels C of the passive half.
        kernel: Odd kernel size k.
        max_alpha: Upper bound of alpha = max_alpha * sigmoid(p); p starts at 0.

    Raises:
        UserError: If the kernel size is even or not positive.
    """

    def __init__(self, dim: int, kernel: int, max_alpha: float = 0.2) -> None:
        super().__init__()
        check_kernel("model.scale_context_kernel", kernel)
        self.max_alpha = max_alpha
        self.weight = nn.Parameter(torch.zeros(dim, 1, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the context (B, H, W, C) of the grid ``x`` (B, H, W, C)."""
        alpha = self.max_alpha * torch.sigmoid(self.gate)
        return depthwise(x, alpha * self.weight, alpha * self.bias)  # scaling the weights is cheaper than the grid


class Subnet(nn.Module):
    """Base class of networks of shared linear layers with optional updates."""

    def linears(self) -> dict[str, LoRALinear]:
        """Return the shared linear layers by name."""
        return {name: child for name, child in self.named_children() if isinstance(child, LoRALinear)}

    def new_updates(self, rank: int, bias: bool, draw: Draw) -> nn.ModuleDict:
        """Return a new :class:`LoRAUpdate` for each linear layer, by layer name.

        Args:
            rank: Rank of the updates.
            bias: Whether the updates have a bias.
            draw: Generators by layer name.
        """
        return nn.ModuleDict({name: layer.new_update(rank, bias, draw(name)) for name, layer in self.linears().items()})

    def merge(self, updates: nn.ModuleDict) -> None:
        """Add one expert's updates to the weights permanently."""
        for name, layer in self.linears().items():
            layer.merge(cast(LoRAUpdate, updates[name]))

    @abstractmethod
    def forward(self, x: Tensor, updates: nn.ModuleDict | None = None) -> tuple[Tensor, Tensor]:
        """Return raw log-scale and shift of the active half.

        Args:
            x: Passive half (B, H, W, in_dim).
            updates: One expert's updates by layer name; None for the shared layers alone.

        Returns:
            Two grids (B, H, W, out_dim).
        """


def _update(updates: nn.ModuleDict | None, name: str) -> LoRAUpdate | None:
    return None if updates is None else cast(LoRAUpdate, updates[name])


class ContextSubnet(Subnet):
    """Separate networks for scale and shift, with context for the scale.

    Only the scale depends on neighboring patches, ``s = W2 relu(W1 [x; c(x)])`` and ``t = V2 relu(V1 x)`` with the
    scale context c.

    Args:
        in_dim: Width of the passive half.
        out_dim: Width of the active half.
        context_kernel: Odd kernel size of the scale context.
        draw: Generators by layer name.
    """

    def __init__(self, in_dim: int, out_dim: int, context_kernel: int, draw: Draw) -> None:
        super().__init__()
        hidden = 2 * in_dim
        self.context = ScaleContextConv(in_dim, context_kernel)
        self.scale_in = LoRALinear(2 * in_dim, hidden, draw("scale_in"))
        self.scale_out = LoRALinear(hidden, out_dim, draw("scale_out"))
        self.shift_in = LoRALinear(in_dim, hidden, draw("shift_in"))
        self.shift_out = LoRALinear(hidden, out_dim, draw("shift_out"))

    def forward(self, x: Tensor, updates: nn.ModuleDict | None = None) -> tuple[Tensor, Tensor]:
        """Return raw log-scale and shift of the active half.

        Args:
            x: Passive half (B, H, W, in_dim).
            updates: One expert's updates by layer name; None for the shared layers alone.

        Returns:
            Two grids (B, H, W, out_dim).
        """
        patches = x.shape[:-1]
        with_context = torch.cat((x, self.context(x)), -1).flatten(0, -2)
        scale = F.relu(self.scale_in(with_context, _update(updates, "scale_in")), inplace=True)
        shift = F.relu(self.shift_in(x.flatten(0, -2), _update(updates, "shift_in")), inplace=True)
        return (
            self.scale_out(scale, _update(updates, "scale_out")).view(*patches, -1),
            self.shift_out(shift, _update(updates, "shift_out")).view(*patches, -1),
        )


class PlainSubnet(Subnet):
    """One hidden layer for scale and shift, without context from neighboring patches.

    Args:
        in_dim: Width of the passive half.
        out_dim: Width of the active half.
        draw: Generators by layer name.
    """

    def __init__(self, in_dim: int, out_dim: int, draw: Draw) -> None:
        super().__init__()
        self.hidden = LoRALinear(in_dim, 2 * in_dim, draw("hidden"))
        self.out = LoRALinear(2 * in_dim, 2 * out_dim, draw("out"))

    def forward(self, x: Tensor, updates: nn.ModuleDict | None = None) -> tuple[Tensor, Tensor]:
        """Return raw log-scale and shift of the active half.

        Args:
            x: Passive half (B, H, W, in_dim).
            updates: One expert's updates by layer name; None for the shared layers alone.

        Returns:
            Two grids (B, H, W, out_dim).
        """
        hidden = F.relu(self.hidden(x.flatten(0, -2), _update(updates, "hidden")), inplace=True)
        scale, shift = self.out(hidden, _update(updates, "out")).view(*x.shape[:-1], -1).chunk(2, -1)
        return scale, shift
