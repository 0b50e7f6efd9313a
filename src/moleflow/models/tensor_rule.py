"""Rule for one tensor of a model folder: its type, its shape and the range of its values."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Shape = tuple[int | str, ...]
"""Sizes of the axes. A text such as ``N`` names a size that the settings do not determine: it is at least 1, and all
axes of this name in one file have the same size."""

MIN_DEVIATION, MAX_DEVIATION = 1e-30, 1e30
"""Bounds of a standard deviation; with others, float32 scores would overflow."""

Values = Literal["finite", "permutation", "moments"]
"""``finite``; ``permutation`` of 0, ..., n - 1; or ``moments``: a mean and a standard deviation."""


@dataclass(frozen=True)
class TensorRule:
    """Rule for one tensor of a model folder.

    Attributes:
        shape: Sizes of its axes.
        dtype: Its type.
        values: The allowed values; those of integers are not checked unless they are a permutation.
        optional: Whether the tensor may be absent.
    """

    shape: Shape
    dtype: torch.dtype = torch.float32
    values: Values = "finite"
    optional: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> "TensorRule":
        """Return the rule for a tensor like an existing one; the only integers of fixed size are permutations."""
        permuted = not tensor.is_floating_point() and tensor.ndim == 1
        return cls(tuple(tensor.shape), tensor.dtype, "permutation" if permuted else "finite")

    def with_prefix(self, prefix: str) -> "TensorRule":
        """Return the rule with a prefix of the named axes, which are then independent of those without it."""
        return replace(self, shape=tuple(f"{prefix}{axis}" if isinstance(axis, str) else axis for axis in self.shape))

    def fault(self, tensor: Tensor) -> str | None:
        """Return in words how the values of a tensor of the right shape differ from the rule, or None."""
        if self.values == "permutation":
            permutation = torch.equal(tensor.sort().values, torch.arange(len(tensor), dtype=tensor.dtype))
            return None if permutation else f"must be a permutation of 0 to {len(tensor) - 1}"
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"has {int((~tensor.isfinite()).sum())} values that are not finite, and must have none"
        if self.values == "moments":
            mean, deviation = tensor.tolist()
            if not abs(mean) <= MAX_DEVIATION or not MIN_DEVIATION <= deviation <= MAX_DEVIATION:
                allowed = f"between {MIN_DEVIATION:g} and {MAX_DEVIATION:g}"
                return f"is mean={mean:g}, deviation={deviation:g}, and the deviation must be {allowed}"
        return None


def describe_shape(sizes: Iterable[int | str]) -> str:
    """Return a shape in words, such as ``(N, 8)``."""
    return f"({', '.join(map(str, sizes))})"
