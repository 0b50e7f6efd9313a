"""The flow in a straightforward form: FrEIA's blocks with dense permutations, LoRA as separate layers.

The training benchmarks compare with this form. It copies the weights of an
:class:`~moleflow.models.flow.expert_flow.ExpertFlow`, so both have the same latents and log-determinants. As in the
flow, frozen parameters have no gradient.
"""

from typing import cast

import FrEIA.modules as fm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.models.flow.coupling import CouplingBlock
from moleflow.models.flow.dia import MLP, DIABlock
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.input_adapters import AffineNormAdapter
from moleflow.models.flow.lora import LoRALinear, LoRAUpdate
from moleflow.models.flow.positional_encoding import positional_encoding
from moleflow.models.flow.spatial_mixer import SpatialMixer
from moleflow.models.flow.subnets import ContextSubnet


class SeparateLoRALinear(nn.Module):
    """``W x + b + (1/r) B A x + b'``, computed by a frozen layer and two thin layers.

    Args:
        layer: The shared layer; copied.
        update: The update of one expert; copied.
    """

    def __init__(self, layer: LoRALinear, update: LoRAUpdate) -> None:
        super().__init__()
        assert update.a is not None
        assert update.b is not None
        assert update.bias is not None
        self.layer = _linear(layer.weight, layer.bias).requires_grad_(False)
        self.a, self.b = _linear(update.a), _linear(update.b)
        self.scale = update.scale
        self.bias = _copy(update.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.scale * self.b(self.a(x)) + self.bias


class FreiaSubnet(nn.Module):
    """Network from rows (N, D/2) to [raw log-scale, raw shift] (N, D); the scale depends on neighboring patches.

    Args:
        subnet: The shared network; copied.
        updates: The updates of one expert; copied.
        flow: The flow, which has the grid that the rows belong to.
    """

    def __init__(self, subnet: ContextSubnet, updates: nn.ModuleDict, flow: "FreiaForm") -> None:
        super().__init__()
        context = subnet.context
        channels, _, kernel, _ = context.weight.shape
        self.convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.convolution.weight, self.convolution.bias = _copy(context.weight), _copy(context.bias)
        self.gate, self.max_alpha = _copy(context.gate), context.max_alpha
        self.requires_grad_(False)
        for name, layer in subnet.linears().items():
            setattr(self, name, SeparateLoRALinear(layer, cast(LoRAUpdate, updates[name])))
        self._flow = [flow]  # in a list, so that it does not become a submodule

    def forward(self, x: Tensor) -> Tensor:
        grid = x.view(*self._flow[0].grid, -1).permute(0, 3, 1, 2)
        context = self.max_alpha * torch.sigmoid(self.gate) * self.convolution(grid)
        context = context.permute(0, 2, 3, 1).reshape(len(x), -1)
        scale = self.scale_out(F.relu(self.scale_in(torch.cat((x, context), 1))))
        return torch.cat((scale, self.shift_out(F.relu(self.shift_in(x)))), 1)


class PlainDIABlock(nn.Module):
    """Affine coupling of rows (N, D) whose networks have three linear layers each.

    Args:
        block: The block of one expert; copied.
    """

    def __init__(self, block: DIABlock) -> None:
        super().__init__()
        self.cut, self.clamp, self.flip = block.cut, block.clamp, block.flip
        self.scale, self.shift = (self._network(mlp) for mlp in (block.scale, block.shift))

    @staticmethod
    def _network(mlp: MLP) -> nn.Sequential:
        first, second, last = (_linear(layer.weight, layer.bias) for layer in (mlp.first, mlp.second, mlp.last))
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x[:, : self.cut], x[:, self.cut :]
        passive, active = (second, first) if self.flip else (first, second)
        scale = self.clamp * torch.tanh(self.scale(passive) / self.clamp)
        active = active * torch.exp(scale) + self.shift(passive)
        return torch.cat((active, passive) if self.flip else (passive, active), 1), scale.sum(1)


class FreiaForm(nn.Module):
    """One expert of a flow in the default configuration.

    Args:
        flow: The flow; its weights are copied.
        name: Name of the expert.
    """

    def __init__(self, flow: ExpertFlow, name: str) -> None:
        super().__init__()
        expert = flow.expert(name)
        assert isinstance(expert.adapter, AffineNormAdapter)
        assert isinstance(flow.mixer, SpatialMixer)
        self.raw_scale, self.raw_offset = _copy(expert.adapter.raw_scale), _copy(expert.adapter.raw_offset)
        channels, _, kernel, _ = flow.mixer.weight.shape
        self.mixer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.mixer.weight, self.mixer.bias = _copy(flow.mixer.weight), _copy(flow.mixer.bias)
        self.gate = _copy(flow.mixer.gate)
        self.mixer.requires_grad_(False)
        self.gate.requires_grad_(False)
        self.blocks = nn.ModuleList()
        self.grid: tuple[int, ...] = ()
        for block, updates in zip(flow.stack.blocks, expert.updates, strict=True):
            self.blocks.append(self._block(cast(CouplingBlock, block), cast(nn.ModuleDict, updates)))
        self.dia = nn.ModuleList(PlainDIABlock(cast(DIABlock, block)) for block in expert.dia)

    def _block(self, block: CouplingBlock, updates: nn.ModuleDict) -> fm.AllInOneBlock:
        subnet, dim = cast(ContextSubnet, block.subnet), len(block.order)
        freia_block = fm.AllInOneBlock(
            [(dim,)],
            subnet_constructor=lambda i, o: FreiaSubnet(subnet, updates, self),
            affine_clamping=block.clamp,
            global_affine_type="SOFTPLUS",
            permute_soft=False,
        )
        with torch.no_grad():
            permutation = torch.eye(dim, device=block.order.device)[block.order]
            freia_block.w_perm.copy_(permutation)
            freia_block.w_perm_inv.copy_(permutation.T)
        freia_block.global_scale.requires_grad_(False)
        freia_block.global_offset.requires_grad_(False)
        return freia_block

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, H, W, D) and the log-determinants (B, H, W) of patch features (B, H, W, D)."""
        self.grid = tuple(x.shape[:3])
        dim = x.shape[-1]
        x = x + positional_encoding(*x.shape[1:3], dim).to(x.device)
        x = (0.5 + 1.5 * torch.sigmoid(self.raw_scale)) * F.layer_norm(x, (dim,)) + 2 * torch.tanh(self.raw_offset)
        share = torch.sigmoid(self.gate)
        x = (1 - share) * x + share * self.mixer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        rows = x.reshape(-1, dim)
        logdet = rows.new_zeros(len(rows))
        for block in self.blocks:
            (rows,), contribution = block([rows])
            logdet = logdet + contribution
        for block in self.dia:
            rows, contribution = block(rows)
            logdet = logdet + contribution
        return rows.view(*self.grid, dim), logdet.view(self.grid)


def _copy(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone())


def _linear(weight: nn.Parameter, bias: nn.Parameter | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = _copy(weight)
    if bias is not None:
        layer.bias = _copy(bias)
    return layer
