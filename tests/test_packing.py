"""Tensors as the bytes of a file."""

import pytest
import torch
from safetensors import SafetensorError

from moleflow.packing import pack, unpack


def test_every_bit_comes_back_in_memory_of_its_own() -> None:
    given = {
        "one byte, which shifts what follows": torch.tensor([True]),
        "across": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T,
        "learned": torch.nn.Parameter(torch.tensor([torch.pi])),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "none": torch.empty(0, dtype=torch.int32),
    }
    found = unpack(pack(given))
    assert found.keys() == given.keys()
    for name, tensor in found.items():
        assert tensor.dtype == given[name].dtype
        assert torch.equal(tensor, given[name])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, "it keeps no file in memory"
    with pytest.raises(SafetensorError):
        unpack(pack(given)[:40])
