"""Input adapters: what an expert does to the patch grid before the shared flow sees it."""

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.errors import UserError, choice
from moleflow.flow.context import zero_linear
from moleflow.flow.lora import SharedLinear
from moleflow.flow.subnets import Draw

_FIRST_START = 0.5 + 1.5 / (1.0 + math.exp(0.7))
ADAPTERS = ("whitening", "statistics", "soft_norm", "none")


class InputAdapter(nn.Module):
    """Maps a patch grid (B, H, W, D) to a patch grid (B, H, W, D), patch by patch."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted grid (B, H, W, D) of ``x`` (B, H, W, D)."""

    def log_determinant(self) -> Tensor:
        """Return the log-determinant () of the map of one patch; 0 where it differs from patch to patch, uncounted."""
        return torch.zeros(())


class WhiteningAdapter(InputAdapter):
    """Normalise each patch over its channels, then a bounded scale and offset a channel.

    ``y = gamma * LN(x) + beta`` with ``gamma = 0.5 + 1.5 sigmoid(g)`` in (0.5, 2), ``beta = 2 tanh(b)`` in (-2, 2).

    Args:
        dim: Channels D.
        start: Gamma at the start, in (0.5, 2).
    """

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        if not 0.5 < start < 2:
            raise UserError(f"model.adapter_start={start} must lie between 0.5 and 2, the bounds of the scale.")
        self.raw_scale = nn.Parameter(torch.full((dim,), math.log((start - 0.5) / (2.0 - start))))
        self.raw_offset = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted grid; see :class:`InputAdapter`."""
        return self.gamma() * F.layer_norm(x, x.shape[-1:]) + 2.0 * torch.tanh(self.raw_offset)

    def gamma(self) -> Tensor:
        """Return the scales (D,)."""
        return 0.5 + 1.5 * torch.sigmoid(self.raw_scale)


class StatisticsAdapter(InputAdapter):
    """Whiten patches in closed form by what the expert's training patches are; frozen.

    With the channels' means m and standard deviations d, and the correlation matrix's leading eigenpairs (l_i, u_i)
    after shrinkage toward the identity: ``u = (x - m) / d``, ``y = c (u + sum_i (sqrt(e / l_i) - 1) u_i u_i^T u)``,
    where e is the mean of the eigenvalues left out and ``c = e^(-1/2)``: low rank plus diagonal. At rank D this is the
    exact (symmetric) whitening, so channels keep their meaning from expert to expert and the shared flow can use them.

    Reference: Kessy et al., "Optimal Whitening and Decorrelation", The American Statistician 2018 (ZCA-cor);
    Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS B 1999 (the part left out).

    Args:
        dim: Channels D.
        rank: Eigenvectors kept; at least D keeps all.
        shrinkage: Weight in (0, 1] of the identity in the correlation matrix, whose mean eigenvalue is 1.
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor
    gains: Tensor

    def __init__(self, dim: int, rank: int, shrinkage: float) -> None:
        super().__init__()
        if rank < 1:
            raise UserError(f"model.adapter_rank={rank} must be at least 1; the embedding dimension {dim} keeps all.")
        if not 0 < shrinkage <= 1:
            raise UserError(
                f"model.adapter_shrinkage={shrinkage} must lie in (0, 1]: at 0 few pictures have no inverse."
            )
        self.shrinkage = shrinkage
        kept = min(rank, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("directions", torch.zeros(kept, dim))
        self.register_buffer("gains", torch.zeros(kept))

    @torch.no_grad()
    def fit(self, patches: Iterable[Tensor]) -> None:
        """Set mean, scales and directions in one pass over the expert's training grids.

        Args:
            patches: Grids (B, H, W, D); at least one.
        """
        dim, count = len(self.mean), 0
        total, square = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
        for grids in patches:
            x = grids.flatten(0, 2).double().cpu()
            count += len(x)
            total += x.sum(0)
            square += x.T @ x
        mean = total / count
        covariance = square / count - mean[:, None] * mean
        variance = covariance.diagonal()
        deviation = variance.clamp_min(1e-6 * float(variance.mean()) or 1.0).sqrt()  # a dead channel stays finite
        correlation = covariance / deviation[:, None] / deviation
        values, vectors = torch.linalg.eigh(torch.lerp(correlation, torch.eye(dim).double(), self.shrinkage))
        kept = len(self.gains)
        rest = values[:-kept].mean() if kept < dim else torch.ones((), dtype=torch.float64)
        self.mean.copy_(mean)
        self.scale.copy_(1 / (deviation * rest.sqrt()))
        self.directions.copy_(vectors[:, -kept:].T)
        self.gains.copy_((rest / values[-kept:]).sqrt() - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the whitened grid; see :class:`InputAdapter`."""
        u = (x - self.mean) * self.scale
        return u + (F.linear(u, self.directions) * self.gains) @ self.directions

    def log_determinant(self) -> Tensor:
        """Return the log-determinant () of the map of one patch, float64."""
        return self.scale.double().log().sum() + self.gains.double().log1p().sum()


class SoftNormAdapter(InputAdapter):
    """A little layer norm, an unbounded scale and offset, and a gated residual MLP: nearly the identity at the start.

    Args:
        dim: Channels D.
        first: Whether this is the first expert. Only the first blends layer norm in (weight 0.01, learned), and only
            its output is held to ``0.9 x + 0.1 f(x)``.
        draw: Generators by layer name.
    """

    def __init__(self, dim: int, first: bool, draw: Draw) -> None:
        super().__init__()
        self.first = first
        hidden = max(dim // 2, 128)
        if first:
            self.norm_weight = nn.Parameter(torch.ones(dim))
            self.norm_bias = nn.Parameter(torch.zeros(dim))
            self.blend = nn.Parameter(torch.tensor(0.01))
        self.scale = nn.Parameter(torch.ones(dim))
        self.offset = nn.Parameter(torch.zeros(dim))
        self.gate = nn.Parameter(torch.tensor(0.5))
        last = zero_linear(hidden, dim)
        self.mlp = nn.Sequential(
            SharedLinear(dim, hidden, draw("soft_norm_first")),
            nn.GELU(),
            SharedLinear(hidden, hidden, draw("soft_norm_second")),
            nn.GELU(),
            last,
        )
        nn.init.normal_(last.weight, std=0.01, generator=draw("soft_norm_last"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted grid; see :class:`InputAdapter`."""
        normed = x
        if self.first:
            full = F.layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias)
            normed = torch.lerp(x, full, self.blend.clamp(0.0, 1.0))
        scaled = self.scale * normed + self.offset
        adapted = scaled + torch.sigmoid(self.gate) * self.mlp(scaled)
        return torch.lerp(x, adapted, 0.1) if self.first else adapted


class NoAdapter(InputAdapter):
    """The grid as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x


def input_adapter(
    kind: str, dim: int, first: bool, start: float, rank: int, shrinkage: float, draw: Draw
) -> InputAdapter:
    """Return a fresh adapter.

    Args:
        kind: One of ``whitening``, ``statistics``, ``soft_norm``, ``none``.
        dim: Channels D.
        first: Whether it belongs to the first expert.
        start: Scale at which ``whitening`` starts with later experts; with the first one it is 0.998.
        rank: Eigenvectors that ``statistics`` keeps.
        shrinkage: Shrinkage of ``statistics``.
        draw: Generators by layer name.

    Raises:
        UserError: If the kind is unknown.
    """
    choice("model.adapter", kind, ADAPTERS)
    if kind == "whitening":
        return WhiteningAdapter(dim, _FIRST_START if first else start)
    if kind == "statistics":
        return StatisticsAdapter(dim, rank, shrinkage)
    if kind == "soft_norm":
        return SoftNormAdapter(dim, first, draw)
    return NoAdapter()
