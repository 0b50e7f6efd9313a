"""Named tensors as the bytes of a safetensors file, and back: no pickle, and the same to the last bit."""

from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of the file that holds these tensors, from whatever device they are on."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def unpack(content: bytes) -> dict[str, Tensor]:
    """Return what :func:`pack` was given, on the CPU.

    Raises:
        safetensors.SafetensorError: If the content is not that of a safetensors file.
    """
    # Copies: tensors inside a file lie at any address, and kernels may round differently there.
    return {name: tensor.clone() for name, tensor in load(content).items()}
