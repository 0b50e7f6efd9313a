"""Lossless conversion between named tensors and the bytes of a safetensors file."""

from collections.abc import Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor

_DTYPE_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int32: "I32", torch.int64: "I64"}


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a safetensors file with these tensors, which may be on any device."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type in safetensors files, of the types that a model folder has."""
    return _DTYPE_NAMES[dtype]


def bytes_to_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the named tensors of the content of a safetensors file, on the CPU.

    Raises:
        safetensors.SafetensorError: If the content is not that of a safetensors file.
    """
    # Copies: tensors inside a file may be unaligned, where kernels may round differently.
    return {name: tensor.clone() for name, tensor in load(content).items()}
