"""What an expert knows in closed form: tensors whose shapes are not known before they are fitted or loaded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Facts(nn.Module):
    """A set of tensors, empty until they are loaded, as :meth:`torch.nn.Module.load_state_dict` does with any shape.

    Args:
        names: Names of the tensors.
        optional: Names of tensors that older files lack; loaded from such a file, they are empty.
    """

    def __init__(self, *names: str, optional: Sequence[str] = ()) -> None:
        super().__init__()
        self._optional = tuple(optional)
        for name in (*names, *optional):
            self.register_buffer(name, torch.empty(0))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self._optional:
            state_dict.setdefault(f"{prefix}{name}", torch.empty(0))
        for name, own in self.named_buffers():
            if (given := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.empty_like(given, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
