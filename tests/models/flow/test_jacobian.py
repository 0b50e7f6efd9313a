"""Tests of the log-determinants that the likelihood omits."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.jacobian import convolution_log_determinant, omitted_log_determinant
from moleflow.models.flow.spatial_mixer import SpatialMixer


def convolution_matrix(kernel: np.ndarray, height: int, width: int, circular: bool) -> np.ndarray:
    """Return a convolution as a matrix (H W, H W) over the patches of a grid."""
    radius = len(kernel) // 2
    matrix = np.zeros((height * width, height * width))
    for y in range(height):
        for x in range(width):
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    v, u = y + dy, x + dx
                    if circular or (0 <= v < height and 0 <= u < width):
                        matrix[y * width + x, v % height * width + u % width] += kernel[dy + radius, dx + radius]
    return matrix


@given(seed=st.integers(0, 1000), size=st.sampled_from([3, 5]), grid=st.sampled_from([(5, 5), (6, 8), (7, 5)]))
def test_log_determinant_of_a_circular_convolution_is_exact(seed: int, size: int, grid: tuple[int, int]) -> None:
    kernels = np.random.default_rng(seed).normal(size=(2, size, size))
    values = convolution_log_determinant(torch.from_numpy(kernels), grid)
    for kernel, value in zip(kernels, values, strict=True):
        exact = np.linalg.slogdet(convolution_matrix(kernel, *grid, circular=True))[1] / (grid[0] * grid[1])
        assert float(value) == pytest.approx(exact, abs=1e-8)


def test_log_determinant_of_the_zero_padded_mixer_is_close() -> None:
    flow = ExpertFlow(8, coupling_layers=0, dia_blocks=0, lora_rank=0, adapter="none")
    flow.add_expert("a")
    assert isinstance(flow.mixer, SpatialMixer)
    with torch.no_grad():
        flow.mixer.weight.mul_(0.3)
    kernels = flow.mixer.kernels()
    assert kernels is not None
    matrices = [convolution_matrix(k, 20, 20, circular=False) for k in kernels.detach().double().numpy()[[0, 3]]]
    exact = np.linalg.slogdet(matrices[0])[1] / 400
    assert omitted_log_determinant(flow, "a", (20, 20)) == pytest.approx(8 * exact, rel=0.02)
    x = torch.randn(1, 20, 20, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(matrices[1] @ x[0, ..., 3].flatten().numpy()).float()
    assert torch.allclose(flow.mixer(x)[0, ..., 3].flatten(), expected, atol=1e-5)


def test_contraction_of_the_adapter_is_included() -> None:
    flow = ExpertFlow(8, coupling_layers=1, lora_rank=2, spatial_context_mode="blur")
    flow.add_expert("a")
    with torch.no_grad():
        flow.expert("a").adapter.raw_scale.fill_(-50.0)  # type: ignore[operator, union-attr]
    assert omitted_log_determinant(flow, "a", (4, 4)) == pytest.approx(8 * np.log(0.5))


@pytest.mark.parametrize("setting", [{"spatial_context_mode": "full"}, {"adapter": "soft_norm"}])
def test_jacobians_that_depend_on_the_image_give_none(setting: dict[str, Any]) -> None:
    flow = ExpertFlow(8, coupling_layers=1, lora_rank=2, **setting)
    flow.add_expert("a")
    assert omitted_log_determinant(flow, "a", (4, 4)) is None
