"""Buffers whose shapes are set by loading a state dict."""

from typing import Any

import torch
from torch import nn

from moleflow.models.tensor_rule import TensorRule


class DynamicBuffers(nn.Module):
    """Named buffers that are empty until a state dict is loaded.

    Shapes and types are those of the loaded tensors; the buffers are contiguous.

    Args:
        rules: Rule for each buffer by name, for the check of files. Loading does not apply them.

    Attributes:
        rules: The rules by name.

    Examples:
        >>> import torch
        >>> buffers = DynamicBuffers(mean=TensorRule((3,)))
        >>> _ = buffers.load_state_dict({"mean": torch.zeros(3)})
        >>> buffers.mean.shape
        torch.Size([3])
    """

    def __init__(self, **rules: TensorRule) -> None:
        super().__init__()
        self.rules = rules
        for name in rules:
            self.register_buffer(name, torch.empty(0))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers():
            if (value := state_dict.get(f"{prefix}{name}")) is not None:
                # Contiguous, as in a file: matrix products round differently for another memory layout.
                contiguous = torch.empty_like(value, device=buffer.device, memory_format=torch.contiguous_format)
                setattr(self, name, contiguous)
        super()._load_from_state_dict(state_dict, prefix, *args)
