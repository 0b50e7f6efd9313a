"""Tensors as the bytes of a safetensors file."""

import pytest
import torch
from safetensors import SafetensorError

from moleflow.utils.serialization import bytes_to_tensors, tensors_to_bytes


def test_round_trip_is_exact_and_copies_the_memory() -> None:
    tensors = {
        "one byte, which misaligns the next tensor": torch.tensor([True]),
        "transposed": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T,
        "parameter": torch.nn.Parameter(torch.tensor([torch.pi])),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "empty": torch.empty(0, dtype=torch.int32),
    }
    restored = bytes_to_tensors(tensors_to_bytes(tensors))
    assert restored.keys() == tensors.keys()
    for name, tensor in restored.items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, "the tensor keeps the whole file in memory"


def test_truncated_bytes_are_an_error() -> None:
    with pytest.raises(SafetensorError):
        bytes_to_tensors(tensors_to_bytes({"double": torch.tensor([1 / 3])})[:40])
