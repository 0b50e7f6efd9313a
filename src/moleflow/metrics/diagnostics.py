"""Statistics for the diagnosis of flows, as functions of tensors.

A statistic that is undefined for its input (the correlation with a constant, the cosine of a zero vector) is None.
"""

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

QQ_LEVELS = tuple(i / 4 for i in range(-16, 17))
"""Standard normal quantiles of Q-Q plots, -4 to 4: about the range that 10^5 values resolve."""


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Return Pearson's correlation of two tensors of the same shape; None if one of them is constant."""
    x, y = (values.double().flatten() - values.double().mean() for values in (a, b))
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale > 0 else None


def excess_kurtosis(values: Tensor) -> float | None:
    """Return the excess kurtosis over all elements; None if they are constant.

    It is the fourth standardized moment minus 3: 0 for a normal distribution, positive for heavier tails.
    """
    centered = values.double().flatten() - values.double().mean()
    square = centered.square()
    variance = float(square.mean())
    return float(square.square().mean()) / variance**2 - 3 if variance > 0 else None


def normal_qq(values: Tensor) -> list[float]:
    """Return the quantiles over all elements at the probabilities of :data:`QQ_LEVELS`.

    They equal the levels for a standard normal distribution, and lie beyond them at both ends for heavier tails.
    """
    probabilities = [NormalDist().cdf(level) for level in QQ_LEVELS]
    return [float(q) for q in np.quantile(values.flatten().cpu().numpy(), probabilities)]


def norm_shares(vectors: Mapping[str, Tensor]) -> dict[str, float] | None:
    """Return the norm of each vector divided by the sum of the norms; None if all are zero."""
    norms = {name: float(vector.double().norm()) for name, vector in vectors.items()}
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()} if total > 0 else None


def cosine(a: Tensor, b: Tensor) -> float | None:
    """Return the cosine of the angle between two vectors; None if one of them is zero."""
    scale = float(a.double().norm() * b.double().norm())
    return float(a.double().flatten() @ b.double().flatten()) / scale if scale > 0 else None


def tail_frequency(scores: Tensor, count: int) -> Tensor:
    """Return for each patch the share of images in which it is among the ``count`` largest scores.

    Args:
        scores: (N, h, w) patch scores of N images.
        count: Number of patches in the tail of an image.

    Returns:
        (h, w) float64, which sums to ``count``.
    """
    flat = scores.flatten(1)
    in_tail = torch.zeros(flat.shape, dtype=torch.float64, device=flat.device)
    in_tail.scatter_(1, flat.topk(count, dim=1).indices, 1.0)
    return in_tail.mean(0).reshape(scores.shape[1:])


def border_share(frequency: Tensor) -> tuple[float, float]:
    """Return the border's share of the sum of a map (h, w), and its share of the patches.

    The border is the outermost ring of patches.
    """
    border = torch.ones(frequency.shape, dtype=torch.bool, device=frequency.device)
    border[1:-1, 1:-1] = False
    return float(frequency[border].sum() / frequency.sum()), float(border.double().mean())


def product_singular_values(b: Tensor, a: Tensor) -> Tensor:
    """Return the singular values of a low-rank product B A without forming it.

    Args:
        b: (m, r).
        a: (r, n).

    Returns:
        (r,) float64, in descending order: those of B A except for zeros.
    """
    values: Tensor = torch.linalg.svdvals(torch.linalg.qr(b.double()).R @ torch.linalg.qr(a.double().T).R.T)
    return values


def effective_rank(singular_values: Tensor, energy: float = 0.95) -> int | None:
    """Return the least number of singular values with a given share of the squared norm; None if all are zero.

    Args:
        singular_values: (r,) singular values in any order.
        energy: Share of the squared norm in (0, 1].
    """
    squares = singular_values.double().square().sort(descending=True).values
    if not float(squares.sum()) > 0:
        return None
    cumulative = squares.cumsum(0) / squares.sum()
    return int((cumulative < energy - 1e-12).sum()) + 1


def route_margins(distances: Tensor, expert: int) -> Tensor:
    """Return the distance to the nearest other expert minus the distance to the correct one; negative if misrouted.

    Args:
        distances: (N, E) distances of N images to E > 1 experts.
        expert: Column of the correct expert of all the images.

    Returns:
        (N,) margins.
    """
    others = distances.clone()
    others[:, expert] = torch.inf
    return others.amin(1) - distances[:, expert]
