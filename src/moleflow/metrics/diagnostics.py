"""What is looked at when a flow behaves oddly: plain functions of tensors, nothing of flows or runs.

A quantity that does not exist for its input (a correlation with a constant, a mean of nothing) is None.
"""

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

QQ_LEVELS = tuple(i / 4 for i in range(-16, 17))
"""Standard normal quantiles at which latents are compared, -4 to 4: as far out as some 10^5 numbers tell."""


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Return Pearson's correlation of two tensors of one shape; None if one of them does not vary."""
    x, y = (values.double().flatten() - values.double().mean() for values in (a, b))
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale > 0 else None


def excess_kurtosis(values: Tensor) -> float | None:
    """Return the fourth standardised moment less 3, all values pooled: 0 for a normal, above for heavier tails."""
    centred = values.double().flatten() - values.double().mean()
    square = centred.square()
    variance = float(square.mean())
    return float(square.square().mean()) / variance**2 - 3 if variance > 0 else None


def normal_qq(values: Tensor) -> list[float]:
    """Return the quantiles of all values pooled that stand where a standard normal has :data:`QQ_LEVELS`.

    Equal to the levels for a standard normal; beyond them at both ends for heavier tails.
    """
    shares = [NormalDist().cdf(level) for level in QQ_LEVELS]
    return [float(q) for q in np.quantile(values.flatten().cpu().numpy(), shares)]


def norm_shares(vectors: Mapping[str, Tensor]) -> dict[str, float] | None:
    """Return each vector's norm as a share of the sum of the norms; None if all are zero."""
    norms = {name: float(vector.double().norm()) for name, vector in vectors.items()}
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()} if total > 0 else None


def cosine(a: Tensor, b: Tensor) -> float | None:
    """Return the cosine of the angle between two vectors; None if one of them is zero."""
    scale = float(a.double().norm() * b.double().norm())
    return float(a.double().flatten() @ b.double().flatten()) / scale if scale > 0 else None


def tail_frequency(scores: Tensor, count: int) -> Tensor:
    """Return how often each patch is among its picture's ``count`` largest scores.

    Args:
        scores: (N, h, w) patch scores of N pictures.
        count: Patches of a tail.

    Returns:
        (h, w) float64 shares of the pictures; they sum to ``count``.
    """
    flat = scores.flatten(1)
    marks = torch.zeros(flat.shape, dtype=torch.float64, device=flat.device)
    marks.scatter_(1, flat.topk(count, dim=1).indices, 1.0)
    return marks.mean(0).reshape(scores.shape[1:])


def border_share(frequency: Tensor) -> tuple[float, float]:
    """Return which share of a map (h, w) lies in its outermost ring, and which share of its patches the ring is."""
    ring = torch.ones(frequency.shape, dtype=torch.bool, device=frequency.device)
    ring[1:-1, 1:-1] = False
    return float(frequency[ring].sum() / frequency.sum()), float(ring.double().mean())


def product_singular_values(b: Tensor, a: Tensor) -> Tensor:
    """Return the singular values of a low-rank product B A without forming it.

    Args:
        b: (m, r).
        a: (r, n).

    Returns:
        (r,) float64, falling; those of B A but for zeros.
    """
    values: Tensor = torch.linalg.svdvals(torch.linalg.qr(b.double()).R @ torch.linalg.qr(a.double().T).R.T)
    return values


def effective_rank(singular_values: Tensor, energy: float = 0.95) -> int | None:
    """Return how many of the largest singular values carry a share of the squared norm; None if all are zero."""
    squares = singular_values.double().square().sort(descending=True).values
    if not float(squares.sum()) > 0:
        return None
    carried = squares.cumsum(0) / squares.sum()
    return int((carried < energy - 1e-12).sum()) + 1


def route_margins(distances: Tensor, own: int) -> Tensor:
    """Return how much nearer each picture is to its own expert than to the nearest other one; negative is misrouted.

    Args:
        distances: (N, E) distances to E > 1 experts.
        own: Column of the pictures' own expert.
    """
    others = distances.clone()
    others[:, own] = torch.inf
    return others.amin(1) - distances[:, own]
