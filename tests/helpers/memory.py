"""Measurement of the memory of tensors."""

import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """Context in which the memory of all tensors that operations return is counted.

    Unlike the resident memory of the process, it does not depend on the allocator or on earlier tests.

    Attributes:
        peak: Largest number of bytes at a time; views of one storage are counted once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._current = 0
        self._tensors: Counter[int] = Counter()  # by address of the storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation and count the storages of its results until these are deleted."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                address, size = storage.data_ptr(), storage.nbytes()
                self._tensors[address] += 1
                self._current += size if self._tensors[address] == 1 else 0
                weakref.finalize(tensor, self._release, address, size)
        self.peak = max(self.peak, self._current)
        return result

    def _release(self, address: int, size: int) -> None:
        self._tensors[address] -= 1
        self._current -= 0 if self._tensors[address] else size
