"""Tests of the loss against a plain version with loops."""

import math

import pytest
import torch

from moleflow.models.flow.loss import FlowLoss, patch_nll
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator


def new_batch(height: int = 4, width: int = 5, dimension: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents (3, H, W, D) and log-determinants (3, H, W)."""
    rng = generator(0, "test-losses")
    return torch.randn(3, height, width, dimension, generator=rng), torch.randn(3, height, width, generator=rng)


def test_patch_nll_is_the_negative_log_density() -> None:
    z, logdet = new_batch()
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(patch_nll(z, logdet), -(normal.log_prob(z).sum(dim=-1) + logdet))


def test_patch_nll_is_float32_for_every_precision() -> None:
    z, logdet = new_batch(dimension=768)
    coarse = patch_nll((100 * z).bfloat16(), logdet.bfloat16())
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, patch_nll((100 * z).bfloat16().float(), logdet.bfloat16().float()))
    assert patch_nll(z.double(), logdet.double()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = patch_nll(z, logdet)
    assert torch.equal(inside, patch_nll(z, logdet))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0, 1.2])
@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.2, 0.5, 1.0])
def test_mean_reduction_equals_the_plain_version(weight: float, ratio: float) -> None:
    z, logdet = new_batch()
    nll = patch_nll(z, logdet)
    parts = FlowLoss(tail_weight=weight, tail_top_k_ratio=ratio, lambda_logdet=0.01)(nll, logdet)
    patches = [value for image in nll.tolist() for row in image for value in row]
    tails = []
    for image in nll.tolist():
        values = sorted((value for row in image for value in row), reverse=True)
        top = values[: max(1, int(len(values) * ratio))]
        tails.append(sum(top) / len(top))
    mean, tail = sum(patches) / len(patches), sum(tails) / len(tails)
    penalty = 0.01 * sum(value**2 for value in logdet.flatten().tolist()) / logdet.numel()
    assert parts.mean_nll.item() == pytest.approx(mean, rel=1e-5)
    assert parts.tail_nll.item() == pytest.approx(tail, rel=1e-5)
    assert parts.logdet_penalty.item() == pytest.approx(penalty, rel=1e-5)
    assert parts.total.item() == pytest.approx((1 - weight) * mean + weight * tail + penalty, rel=1e-5)


@pytest.mark.parametrize(("ratio", "k"), [(0.01, 7), (0.02, 15), (0.03, 23), (0.05, 39), (0.07, 54), (0.10, 78)])
def test_tail_of_784_patches_has_the_recorded_size(ratio: float, k: int) -> None:
    nll = torch.arange(784.0).reshape(1, 28, 28).requires_grad_()
    FlowLoss(tail_weight=1.0, tail_top_k_ratio=ratio, lambda_logdet=0.0)(nll, torch.zeros(1, 28, 28)).total.backward()
    assert nll.grad is not None
    assert nll.grad.count_nonzero() == k
    torch.testing.assert_close(nll.grad.flatten()[-k:], torch.full((k,), 1 / k))


def test_sum_reduction_equals_the_plain_version() -> None:
    z, logdet = new_batch()
    nll = patch_nll(z, logdet)
    parts = FlowLoss(tail_weight=0, lambda_logdet=0.01, reduction="sum")(nll, logdet)
    expected = sum(sum(sum(row) for row in image) for image in nll.tolist()) / 3
    assert parts.total.item() == pytest.approx(expected + parts.logdet_penalty.item(), rel=1e-5)
    assert parts.mean_nll.item() == pytest.approx(expected / 20, rel=1e-5)


def test_loss_of_half_precision_is_float32() -> None:
    _, logdet = new_batch()
    low = (1000 * logdet).bfloat16()
    parts, expected = FlowLoss()(low, low), FlowLoss()(low.float(), low.float())
    assert all(part.dtype == torch.float32 for part in parts)
    assert parts == expected


def test_gradients_reach_latents_and_log_determinants() -> None:
    z, logdet = (part.requires_grad_() for part in new_batch())
    FlowLoss()(patch_nll(z, logdet), logdet).total.backward()
    for part in (z, logdet):
        assert part.grad is not None
        assert part.grad.count_nonzero() == part.numel()


def test_penalty_is_zero_with_weight_zero() -> None:
    _, logdet = new_batch()
    assert FlowLoss(lambda_logdet=0)(logdet, logdet).logdet_penalty == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tail_top_k_ratio": 0.0}, r"loss\.tail_top_k_ratio=0\.0"),
        ({"tail_top_k_ratio": 1.5}, r"loss\.tail_top_k_ratio=1\.5"),
        ({"tail_weight": -0.1}, r"loss\.tail_weight=-0\.1"),
        ({"tail_weight": math.nan}, r"loss\.tail_weight=nan"),
        ({"lambda_logdet": -1e-4}, r"loss\.lambda_logdet=-0\.0001"),
        ({"reduction": "sun"}, "Did you mean 'sum'"),
        ({"reduction": "sum"}, r"Set loss\.tail_weight=0"),
    ],
)
def test_invalid_arguments_raise_with_config_key(arguments: dict[str, float | str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FlowLoss(**arguments)  # type: ignore[arg-type]
