"""The fixed 2-D position code that is added to a patch grid."""

from math import log

import torch
from torch import Tensor

from moleflow.errors import UserError


def position_code(
    height: int,
    width: int,
    dim: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return sines and cosines of column (first half of the channels) and row (second half).

    With ``d = dim / 2`` and frequencies ``f_k = 10000^(-2k / d)``, ``k = 0 … d/2 - 1``, channels ``2k`` and ``2k + 1``
    hold ``sin(column f_k)`` and ``cos(column f_k)``; channels ``d + 2k`` and ``d + 2k + 1`` the same of the row.
    Positions are grid indices, not normalised (Vaswani et al., 2017, section 3.5, on two axes).

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        dim: Channels of the features that the code is added to.
        device: Where the code is needed.
        dtype: In what precision; computed in float64 and rounded once.

    Returns:
        Tensor of shape (height, width, dim), every vector of norm ``sqrt(dim / 2)``.

    Raises:
        UserError: If ``dim`` is not divisible by 4.
    """
    if dim <= 0 or dim % 4:
        below, above = dim // 4 * 4, (dim // 4 + 1) * 4
        near = f"{below} or {above}" if below > 0 else str(above)
        raise UserError(
            f"The embedding dimension {dim} is not divisible by 4, which the 2-D position code needs (sine and cosine "
            f"of row and column). Set backbone.dim to a multiple of 4, for example {near}."
        )
    half = dim // 2
    frequencies = torch.exp(-torch.arange(0, half, 2, dtype=torch.float64) * (log(10_000) / half))

    def axis(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    columns = axis(width)[None].expand(height, -1, -1)
    rows = axis(height)[:, None].expand(-1, width, -1)
    return torch.cat((columns, rows), dim=-1).to(device=device, dtype=dtype)
