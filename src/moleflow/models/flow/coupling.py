"""Coupling blocks of the base.

A block consists of affine coupling, optional global affine and fixed permutation.

With the same weights, a block computes the same function as FrEIA's ``AllInOneBlock`` (hard permutation, softplus
global affine, tanh clamp). The permutation is a gather by index, not a dense matrix product.

References:
    Dinh et al., "Density estimation using Real NVP", ICLR 2017.
    Kingma and Dhariwal, "Glow", NeurIPS 2018.
    Ardizzone et al., FrEIA: Framework for Easily Invertible Architectures, 2018-2022.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.models.flow.functional import affine_step, at_least_float32, permute, split_channels
from moleflow.models.flow.subnets import ContextSubnet, PlainSubnet, Subnet
from moleflow.utils.random import generator

_SLOPE = 0.1  # FrEIA's factor of log-scale and shift


class GlobalAffine(nn.Module):
    """Scale and offset per channel, ``y = S x + o``.

    ``S = 0.1 softplus_{0.5}(G)``, initially 1.

    Args:
        dim: Channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.raw_scale = nn.Parameter(torch.full((dim,), 2.0 * math.log(math.exp(5.0) - 1.0)))
        self.offset = nn.Parameter(torch.zeros(dim))

    def scale(self) -> Tensor:
        """Return S, shape (D,), positive."""
        return 0.1 * F.softplus(self.raw_scale, beta=0.5)


class CouplingBlock(nn.Module):
    """Affine coupling of two halves of the channels and a fixed permutation.

    ``s = clamp * tanh(0.1 s_raw)``, ``t = 0.1 t_raw``, ``y = [x1, x2 exp(s) + t]``, global affine, permutation.

    Args:
        dim: Channels D; the first D - D//2 are passive.
        subnet: Network from the passive half to raw log-scale and shift.
        clamp: Bound of the log-scale.
        global_affine: Whether the block has a trained scale and offset per channel. The method does not train them, so
            they are omitted unless the base is trained after the first task.
        generator: Source of the permutation.
    """

    order: Tensor
    inverse_order: Tensor

    def __init__(self, dim: int, subnet: Subnet, clamp: float, global_affine: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.passive = dim - dim // 2
        self.clamp = clamp
        self.subnet = subnet
        self.affine = GlobalAffine(dim) if global_affine else None
        order = torch.randperm(dim, generator=generator)
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", torch.argsort(order), persistent=False)

    def forward(self, x: Tensor, updates: nn.ModuleDict | None = None) -> tuple[Tensor, Tensor]:
        """Transform a grid.

        Args:
            x: Grid (B, H, W, D).
            updates: One expert's updates of the subnet, or None.

        Returns:
            The transformed grid (B, H, W, D) and the log-determinant per patch (B, H, W), float32.
        """
        passive, active = split_channels(x, self.passive)
        raw_scale, raw_shift = self.subnet(passive, updates)
        transformed, logdet = affine_step(active, raw_scale, raw_shift, self.clamp, _SLOPE, _SLOPE)
        y = torch.cat((passive, transformed), -1)
        if self.affine is not None:
            s = self.affine.scale()
            y = y * s + self.affine.offset
            logdet = logdet + s.log().sum()
        return permute(y, self.order, self.inverse_order), logdet

    def inverse(self, y: Tensor, updates: nn.ModuleDict | None = None) -> Tensor:
        """Return the grid that :meth:`forward` maps to ``y``, for testing and sampling.

        Args:
            y: Grid (B, H, W, D).
            updates: One expert's updates of the subnet, or None.
        """
        y = permute(y, self.inverse_order, self.order)
        if self.affine is not None:
            y = (y - self.affine.offset) / self.affine.scale()
        passive, active = split_channels(y, self.passive)
        raw_scale, raw_shift = self.subnet(passive, updates)
        scale = self.clamp * torch.tanh(_SLOPE * at_least_float32(raw_scale))
        return torch.cat((passive, (active - _SLOPE * raw_shift) * (-scale).exp()), -1)


class CouplingStack(nn.Module):
    """Sequence of coupling blocks; the identity if empty.

    Args:
        blocks: The blocks in order.
    """

    def __init__(self, blocks: list[CouplingBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, updates: nn.ModuleList | None = None) -> tuple[Tensor, Tensor]:
        """Transform a grid.

        Args:
            x: Grid (B, H, W, D).
            updates: One expert's updates, one entry per block, or None.

        Returns:
            The transformed grid (B, H, W, D) and the log-determinant per patch (B, H, W), float32.
        """
        logdet = at_least_float32(x.new_zeros(x.shape[:-1]))
        for block, update in self._pairs(updates):
            x, contribution = block(x, update)
            logdet = logdet + contribution
        return x, logdet

    def inverse(self, y: Tensor, updates: nn.ModuleList | None = None) -> Tensor:
        """Return the grid that :meth:`forward` maps to ``y``, for testing and sampling.

        Args:
            y: Grid (B, H, W, D).
            updates: One expert's updates, one entry per block, or None.
        """
        for block, update in reversed(self._pairs(updates)):
            y = block.inverse(y, update)
        return y

    def merge(self, updates: nn.ModuleList) -> None:
        """Add one expert's updates to the weights permanently."""
        for block, update in self._pairs(updates):
            if update is not None:
                block.subnet.merge(update)

    def _pairs(self, updates: nn.ModuleList | None) -> list[tuple[CouplingBlock, nn.ModuleDict | None]]:
        blocks = cast(list[CouplingBlock], list(self.blocks))
        entries = [None] * len(blocks) if updates is None else cast(list[nn.ModuleDict | None], list(updates))
        return list(zip(blocks, entries, strict=True))


def new_stack(
    dim: int, layers: int, scale_context_kernel: int | None, clamp: float, global_affine: bool, seed: int, where: str
) -> CouplingStack:
    """Return newly initialized coupling blocks.

    Args:
        dim: Channels D of a patch.
        layers: Number of blocks.
        scale_context_kernel: Odd kernel size of the scale context in the blocks; None omits the context.
        clamp: Bound of the log-scale.
        global_affine: Whether each block has a global affine.
        seed: Seed of weights and permutations. All stacks with the same seed have the same permutations.
        where: Name of the stack, from which the generators of the weights are derived.
    """
    passive = dim - dim // 2
    blocks = []
    for i in range(layers):

        def draw(part: str, block: str = f"{where}/block{i}") -> torch.Generator:
            return generator(seed, "weights", block, part)

        subnet: Subnet
        if scale_context_kernel is None:
            subnet = PlainSubnet(passive, dim - passive, draw)
        else:
            subnet = ContextSubnet(passive, dim - passive, scale_context_kernel, draw)
        blocks.append(CouplingBlock(dim, subnet, clamp, global_affine, generator(seed, "permutation", i)))
    return CouplingStack(blocks)
