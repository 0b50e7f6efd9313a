"""Tests of operations with hand-written gradients."""

import pytest
import torch

from moleflow.models.flow.functional import affine_step, check_kernel
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator


def test_affine_step() -> None:
    rng = generator(0, "test", "affine")
    active, scale, shift = (torch.randn(2, 3, 5, dtype=torch.float64, generator=rng) for _ in range(3))
    for tensor in (active, scale, shift):
        tensor.requires_grad_()
    transformed, logdet = affine_step(active, scale, shift, 1.9, 0.3, 0.7)
    log_scale = 1.9 * torch.tanh(0.3 * scale)
    torch.testing.assert_close(transformed, active * log_scale.exp() + 0.7 * shift)
    torch.testing.assert_close(logdet, log_scale.sum(-1))
    assert torch.autograd.gradcheck(lambda *x: affine_step(*x, 1.9, 0.3, 0.7), (active, scale, shift))


def test_affine_step_returns_float32_for_half_precision() -> None:
    rng = generator(0, "test", "affine")
    half = torch.randn(4, 6, generator=rng).bfloat16().requires_grad_()
    active = torch.randn(4, 6, generator=rng)
    transformed, logdet = affine_step(active, half, half, 1.9, 0.1, 0.1)
    assert transformed.dtype == logdet.dtype == torch.float32
    (transformed.sum() - logdet.sum()).backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(("kernel", "allowed"), [(4, "3 or 5"), (2, "1 or 3"), (0, "1"), (-3, "1")])
def test_even_kernel_sizes_raise(kernel: int, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"^key={kernel} .* Set it to {allowed}\.$"):
        check_kernel("key", kernel)
    assert check_kernel("key", 3) == 3
