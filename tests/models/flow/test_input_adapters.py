"""Tests of closed-form whitening, and of the blur that commutes with it."""

import pytest
import torch
from torch import Tensor

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.input_adapters import ClosedFormWhitening, IdentityAdapter
from moleflow.models.flow.spatial_mixer import MeanBlur
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator


def grids(count: int = 12, dim: int = 8) -> Tensor:
    """Return patch grids with correlated channels."""
    rng = generator(0, "statistics")  # a well-conditioned draw
    return torch.randn(count, 6, 7, dim, generator=rng) @ torch.randn(dim, dim, generator=rng) * 3 + 5


def fitted(rank: int, x: Tensor, shrinkage: float = 1e-6) -> ClosedFormWhitening:
    adapter = ClosedFormWhitening(x.shape[-1], rank, shrinkage)
    adapter.fit(x.split(5))  # type: ignore[no-untyped-call]
    return adapter


def test_full_rank_gives_identity_covariance() -> None:
    x = grids()
    y = fitted(8, x)(x).flatten(0, 2).double()
    torch.testing.assert_close(y.mean(0), torch.zeros(8).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.T @ y / len(y), torch.eye(8).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("rank", [1, 3, 8, 20])
def test_log_determinant_equals_that_of_the_jacobian(rank: int) -> None:
    adapter = fitted(rank, grids(), shrinkage=0.01).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: adapter(v), grids()[0, 0, 0].double())
    assert float(adapter.log_determinant()) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-6)
    torch.testing.assert_close(jacobian * (1 / adapter.scale), (jacobian * (1 / adapter.scale)).T)  # symmetric: ZCA


def test_low_rank_whitens_the_leading_directions_and_scales_the_others_to_mean_variance_one() -> None:
    x = grids()
    y = fitted(3, x)(x).flatten(0, 2).double()
    values = torch.linalg.eigvalsh(y.T @ y / len(y))
    assert float(values.mean()) == pytest.approx(1, abs=1e-3)
    assert int(((values - 1).abs() < 1e-3).sum()) >= 3


def test_constant_channels_and_single_images_stay_finite() -> None:
    x = grids(1)
    x[..., 2] = 1.0
    assert bool(fitted(8, x, 0.01)(x).isfinite().all())
    constant = torch.ones(1, 2, 2, 8)
    assert bool(fitted(8, constant, 0.01)(constant).isfinite().all())


def test_blur_preserves_constants_at_the_border_and_commutes_with_whitening() -> None:
    blur, x = MeanBlur(3, 0.6), grids()
    torch.testing.assert_close(blur(torch.ones(1, 4, 5, 2)), torch.ones(1, 4, 5, 2))
    corner = 0.4 * x[0, 0, 0] + 0.6 * x[0, :2, :2].mean((0, 1))
    torch.testing.assert_close(blur(x)[0, 0, 0], corner)
    adapter = fitted(8, x, 0.01)
    torch.testing.assert_close(blur(adapter(x)), adapter(blur(x)), atol=1e-4, rtol=1e-4)
    assert torch.equal(MeanBlur(3, 0.0)(x), x)


def test_input_of_the_coupling_blocks_is_white_after_the_blur() -> None:
    flow = ExpertFlow(dim=8, adapter="closed_form_whitening", adapter_shrinkage=1e-6, spatial_context_mode="blur")
    flow.add_expert("a")
    flow.fit("a", [grids()])
    y = flow.prepare(grids(), "a").flatten(0, 2)
    torch.testing.assert_close(y.T @ y / len(y), torch.eye(8), atol=1e-3, rtol=0)


def test_score_without_blocks_is_the_gaussian_density() -> None:
    flow = ExpertFlow(
        dim=8,
        adapter="closed_form_whitening",
        adapter_shrinkage=1e-6,
        spatial_context_mode="none",
        coupling_layers=0,
        dia_blocks=0,
        position_code=False,
    )
    flow.add_expert("a")
    flow.fit("a", [grids()])
    assert not flow.trainable_parameters(["a"])
    x = grids().flatten(0, 2).double()
    normal = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov(correction=0))
    scores = flow.patch_scores(grids(), "a").flatten().double()
    torch.testing.assert_close(scores, -normal.log_prob(x), atol=1e-2, rtol=1e-3)


def test_identity_adapter_has_log_determinant_zero() -> None:
    x = grids()
    assert IdentityAdapter()(x) is x
    assert float(IdentityAdapter().log_determinant()) == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"adapter_rank": 0}, r"model\.adapter_rank=0 .*dimension 8"),
        ({"adapter_shrinkage": 0.0}, r"model\.adapter_shrinkage=0\.0 .*\(0, 1\]"),
        ({"spatial_context_strength": 1.5}, r"model\.spatial_context_strength=1\.5 .*\[0, 1\]"),
        ({"adapter": "affine_norm", "adapter_start": 2.0}, r"model\.adapter_start=2\.0 .*\(0\.5, 2\)"),
    ],
)
def test_invalid_settings_raise_with_config_key(setting: dict[str, object], message: str) -> None:
    settings = {"adapter": "closed_form_whitening", "spatial_context_mode": "blur"} | setting
    with pytest.raises(UserError, match=message):  # noqa: PT012
        flow = ExpertFlow(dim=8, **settings)  # type: ignore[arg-type]
        flow.add_expert("a")
        flow.add_expert("b")  # adapter_start applies to later experts only
