"""Tests of buffers whose shapes are set by loading."""

import pytest
import torch

from moleflow.models.dynamic_buffers import DynamicBuffers
from moleflow.models.tensor_rule import TensorRule

ANY = TensorRule(("N",))


def test_buffers_have_shape_and_type_of_the_loaded_state() -> None:
    buffers, state = DynamicBuffers(a=ANY, b=ANY), {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor([0.5])}
    buffers.load_state_dict(state)
    buffers.load_state_dict(state | {"a": torch.arange(4)})
    assert buffers.get_buffer("a").tolist() == [0, 1, 2, 3]
    assert buffers.get_buffer("a").dtype == torch.int64


def test_missing_and_unexpected_names_raise() -> None:
    buffers, state = DynamicBuffers(a=ANY, b=ANY), {"a": torch.arange(6), "b": torch.tensor([0.5])}
    with pytest.raises(RuntimeError, match="b"):
        buffers.load_state_dict({"a": torch.arange(4)})
    with pytest.raises(RuntimeError, match="c"):
        buffers.load_state_dict(state | {"c": torch.arange(4)})


def test_buffers_are_contiguous() -> None:
    """A file stores tensors row by row, and matrix products round differently for another memory layout."""
    buffers = DynamicBuffers(metric=ANY)
    buffers.load_state_dict({"metric": torch.randn(3, 5).T})
    assert buffers.metric.is_contiguous()
