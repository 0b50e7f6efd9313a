"""Fixed 2-D sinusoidal positional encoding."""

from math import log

import torch
from torch import Tensor

from moleflow.utils.errors import UserError


def positional_encoding(
    height: int,
    width: int,
    dim: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return sines and cosines of column and row.

    With ``d = dim / 2`` and frequencies ``f_k = 10000^(-2k / d)``, ``k = 0 … d/2 - 1``, channels ``2k`` and ``2k + 1``
    are ``sin(column f_k)`` and ``cos(column f_k)``; channels ``d + 2k`` and ``d + 2k + 1`` are those of the row.
    Positions are grid indices and are not normalized.

    Reference: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5, here on two axes.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        dim: Channels of the features to which the encoding is added.
        device: Device of the result.
        dtype: Type of the result; values are computed in float64 and rounded once.

    Returns:
        Tensor of shape (height, width, dim); every vector has the norm ``sqrt(dim / 2)``.

    Raises:
        UserError: If ``dim`` is not a positive multiple of 4.
    """
    check_embedding_dim(dim)
    half = dim // 2
    frequencies = torch.exp(-torch.arange(0, half, 2, dtype=torch.float64) * (log(10_000) / half))

    def axis(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    columns = axis(width)[None].expand(height, -1, -1)
    rows = axis(height)[:, None].expand(-1, width, -1)
    return torch.cat((columns, rows), dim=-1).to(device=device, dtype=dtype)


def check_embedding_dim(dim: int) -> None:
    """Check that the positional encoding exists for this embedding dimension.

    Raises:
        UserError: If ``dim`` is not a positive multiple of 4 (sine and cosine of row and column).
    """
    if dim <= 0 or dim % 4:
        below, above = dim // 4 * 4, (dim // 4 + 1) * 4
        nearest = f"{below} or {above}" if below > 0 else f"{max(above, 4)}"
        raise UserError(
            f"backbone.dim={dim} is not divisible by 4, as the 2-D positional encoding requires (sine and cosine of "
            f"row and column). Set it to a multiple of 4, for example {nearest}."
        )
