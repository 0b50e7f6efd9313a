"""Input adapters, the per-expert maps of patch features before the shared flow."""

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.models.flow.lora import Draw, LoRALinear, zero_linear
from moleflow.utils.errors import check_choice, check_range

ADAPTERS = ("affine_norm", "closed_form_whitening", "soft_norm", "none")
_FIRST_EXPERT_START = 0.5 + 1.5 / (1.0 + math.exp(0.7))


class InputAdapter(nn.Module):
    """Base class of maps from patch grid to patch grid, patch by patch."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted grid (B, H, W, D) of ``x`` (B, H, W, D)."""

    def log_determinant(self) -> Tensor:
        """Return the log-determinant () of the Jacobian per patch.

        It is 0 for adapters whose Jacobian depends on the patch; the likelihood omits that Jacobian.
        """
        return torch.zeros(())


class AffineNormAdapter(InputAdapter):
    """Layer normalization and a bounded scale and offset per channel.

    ``y = gamma * LN(x) + beta`` with ``gamma = 0.5 + 1.5 sigmoid(g)`` in (0.5, 2), ``beta = 2 tanh(b)`` in (-2, 2).

    Args:
        dim: Channels D.
        start: Initial gamma, in (0.5, 2).

    Raises:
        UserError: If ``start`` is outside its range.
    """

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        hint = "These are the bounds of the scale."
        check_range("model.adapter_start", start, 0.5, 2, hint, low_open=True, high_open=True)
        self.raw_scale = nn.Parameter(torch.full((dim,), math.log((start - 0.5) / (2.0 - start))))
        self.raw_offset = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted grid (B, H, W, D) of ``x`` (B, H, W, D)."""
        return self.gamma() * F.layer_norm(x, x.shape[-1:]) + 2.0 * torch.tanh(self.raw_offset)

    def gamma(self) -> Tensor:
        """Return the scales (D,)."""
        return 0.5 + 1.5 * torch.sigmoid(self.raw_scale)


class ClosedFormWhitening(InputAdapter):
    """Whitening, fitted in closed form to training patches and then frozen.

    With the channel means m and standard deviations d, and the leading eigenpairs (l_i, u_i) of the correlation matrix
    after shrinkage toward the identity: ``u = (x - m) / d``, ``y = c (u + sum_i (sqrt(e / l_i) - 1) u_i u_i^T u)``,
    where e is the mean of the remaining eigenvalues and ``c = e^(-1/2)``. This is a map of low rank plus diagonal. At
    rank D it is the exact symmetric whitening (ZCA), under which channels correspond between experts, so that a shared
    flow can be used.

    References:
        Kessy et al., "Optimal Whitening and Decorrelation", The American Statistician 2018 (ZCA-cor).
        Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS B 1999 (the remaining eigenvalues).

    Args:
        dim: Channels D.
        rank: Number of leading eigenvectors; D or more selects all.
        shrinkage: Weight in (0, 1] of the identity in the correlation matrix, whose mean eigenvalue is 1.

    Raises:
        UserError: If an argument is outside its range.
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor
    gains: Tensor

    def __init__(self, dim: int, rank: int, shrinkage: float) -> None:
        super().__init__()
        check_range("model.adapter_rank", rank, 1, hint=f"The embedding dimension {dim} selects all eigenvectors.")
        hint = "At 0, the correlation matrix of few images is singular."
        check_range("model.adapter_shrinkage", shrinkage, 0, 1, hint, low_open=True)
        self.shrinkage = shrinkage
        rank = min(rank, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("directions", torch.zeros(rank, dim))
        self.register_buffer("gains", torch.zeros(rank))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Compute mean, scales and directions in one pass over training patches.

        Args:
            batches: Patch grids (B, H, W, D); at least one.
        """
        self._set(*_moments(batches, len(self.mean)))

    @torch.no_grad()
    def update(self, source: "ClosedFormWhitening", batches: Iterable[Tensor], ratio: float) -> None:
        """Compute mean, scales and directions of former and further training patches together.

        The result is exact up to rounding at rank D. At a lower rank the former patches count with the mean of their
        remaining eigenvalues.

        Args:
            source: The adapter that was fitted to the former patches, with the rank and the shrinkage of this one.
            batches: Patch grids (B, H, W, D) of the further images; at least one.
            ratio: Number of former patches divided by the number of further patches.
        """
        mean, covariance = _moments(batches, len(self.mean))
        former_mean, former_covariance = source._fitted_moments()
        weight = ratio / (1 + ratio)
        difference = mean - former_mean
        between = weight * (1 - weight) * torch.outer(difference, difference)
        self._set(torch.lerp(mean, former_mean, weight), torch.lerp(covariance, former_covariance, weight) + between)

    def _fitted_moments(self) -> tuple[Tensor, Tensor]:
        """Return mean (D,) and covariance (D, D) from which the adapter was computed, float64 on the CPU."""
        buffers = (self.mean, self.scale, self.directions, self.gains)
        mean, scale, directions, gains = (buffer.double().cpu() for buffer in buffers)
        dim, rank = len(mean), len(gains)
        ratios = (gains + 1).pow(-2)  # of the leading eigenvalues to the remaining ones
        rest = dim / (ratios.sum() + dim - rank)  # the mean of all eigenvalues is 1
        shrunk = rest * (torch.eye(dim).double() + directions.T * (ratios - 1) @ directions)
        identity = torch.eye(dim).double()
        correlation = (shrunk - self.shrinkage * identity) / (1 - self.shrinkage) if self.shrinkage < 1 else identity
        correlation = correlation - correlation.diagonal().diag() + identity
        deviation = 1 / (scale * rest.sqrt())
        return mean, correlation * deviation[:, None] * deviation

    def _set(self, mean: Tensor, covariance: Tensor) -> None:
        """Compute scales and directions from mean (D,) and covariance (D, D), float64 on the CPU."""
        dim = len(mean)
        variance = covariance.diagonal()
        deviation = variance.clamp_min(1e-6 * float(variance.mean()) or 1.0).sqrt()  # constant channels stay finite
        correlation = covariance / deviation[:, None] / deviation
        values, vectors = torch.linalg.eigh(torch.lerp(correlation, torch.eye(dim).double(), self.shrinkage))
        rank = len(self.gains)
        rest = values[:-rank].mean() if rank < dim else torch.ones((), dtype=torch.float64)
        self.mean.copy_(mean)
        self.scale.copy_(1 / (deviation * rest.sqrt()))
        self.directions.copy_(vectors[:, -rank:].T)
        self.gains.copy_((rest / values[-rank:]).sqrt() - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the whitened grid (B, H, W, D) of ``x`` (B, H, W, D)."""
        u = (x - self.mean) * self.scale
        return u + (F.linear(u, self.directions) * self.gains) @ self.directions

    def log_determinant(self) -> Tensor:
        """Return the log-determinant () of the Jacobian per patch, float64."""
        return self.scale.double().log().sum() + self.gains.double().log1p().sum()


class SoftNormAdapter(InputAdapter):
    """Slight layer normalization, scale and offset, and a gated residual MLP.

    The scale is unbounded. The adapter is initialized close to the identity.

    Args:
        dim: Channels D.
        first: Whether this is the first expert. Only the first expert blends in layer normalization (trained weight,
            initially 0.01), and only its output is limited to ``0.9 x + 0.1 f(x)``.
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
            LoRALinear(dim, hidden, draw("soft_norm_first")),
            nn.GELU(),
            LoRALinear(hidden, hidden, draw("soft_norm_second")),
            nn.GELU(),
            last,
        )
        nn.init.normal_(last.weight, std=0.01, generator=draw("soft_norm_last"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted grid (B, H, W, D) of ``x`` (B, H, W, D)."""
        normed = x
        if self.first:
            full = F.layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias)
            normed = torch.lerp(x, full, self.blend.clamp(0.0, 1.0))
        scaled = self.scale * normed + self.offset
        adapted = scaled + torch.sigmoid(self.gate) * self.mlp(scaled)
        return torch.lerp(x, adapted, 0.1) if self.first else adapted


class IdentityAdapter(InputAdapter):
    """The identity, as :class:`torch.nn.Identity`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x


def _moments(batches: Iterable[Tensor], dim: int) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D) of the patches of grids (B, H, W, D), float64 on the CPU."""
    count = 0
    total, square = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
    for grids in batches:
        x = grids.flatten(0, 2).double().cpu()
        count += len(x)
        total += x.sum(0)
        square += x.T @ x
    mean = total / count
    return mean, square / count - mean[:, None] * mean


def input_adapter(
    kind: str, dim: int, first: bool, start: float, rank: int, shrinkage: float, draw: Draw
) -> InputAdapter:
    """Return a new adapter.

    Args:
        kind: ``affine_norm``, ``closed_form_whitening``, ``soft_norm`` or ``none``.
        dim: Channels D.
        first: Whether the adapter belongs to the first expert.
        start: Initial scale of ``affine_norm`` for later experts; for the first expert it is 0.998.
        rank: Number of leading eigenvectors of ``closed_form_whitening``.
        shrinkage: Shrinkage of ``closed_form_whitening``.
        draw: Generators by layer name.

    Raises:
        UserError: If the kind is unknown, or an argument of it is outside its range.
    """
    check_choice("model.adapter", kind, ADAPTERS)
    if kind == "affine_norm":
        return AffineNormAdapter(dim, _FIRST_EXPERT_START if first else start)
    if kind == "closed_form_whitening":
        return ClosedFormWhitening(dim, rank, shrinkage)
    if kind == "soft_norm":
        return SoftNormAdapter(dim, first, draw)
    return IdentityAdapter()
