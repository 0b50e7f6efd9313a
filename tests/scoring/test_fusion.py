"""Fusion of patch scores against a loop over patches."""

import math

import pytest
import torch
from torch import Tensor

from moleflow.scoring.calibration import Moments
from moleflow.scoring.fusion import ScoreFusion, finest_grid, resampling_matrix
from moleflow.utils.random import generator

GRIDS = {"first": (2, 3), "second": (4, 4), "third": (5, 2)}


def literal_resampling(grid: Tensor, rows: int, columns: int) -> Tensor:
    """Return a grid (h, w), interpolated bilinearly at the centers of (rows, columns) patches, patch by patch."""
    result = torch.empty(rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            y = min(max((i + 0.5) * grid.shape[0] / rows - 0.5, 0.0), grid.shape[0] - 1.0)
            x = min(max((j + 0.5) * grid.shape[1] / columns - 0.5, 0.0), grid.shape[1] - 1.0)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[1] - 1)
            upper = (1 - x + left) * float(grid[top, left]) + (x - left) * float(grid[top, right])
            lower = (1 - x + left) * float(grid[bottom, left]) + (x - left) * float(grid[bottom, right])
            result[i, j] = (1 - y + top) * upper + (y - top) * lower
    return result


def test_fusion_equals_a_loop_over_patches() -> None:
    draw = generator(0, "fusion")
    scores = {name: 40 * torch.randn(6, *grid, generator=draw) - 700 for name, grid in GRIDS.items()}
    moments = {name: Moments.of(values) for name, values in scores.items()}
    weights = {"first": 1.0, "second": 2.0, "third": 0.5}
    fusion = ScoreFusion(moments, weights, GRIDS)
    fused = fusion(scores)
    assert fusion.grid_shape == finest_grid(list(GRIDS.values())) == (5, 4)
    assert fused.shape == (6, 5, 4)
    assert fused.dtype == torch.float32
    for image in range(6):
        expected = torch.zeros(5, 4, dtype=torch.float64)
        for name, values in scores.items():
            mean = sum(values.flatten().tolist()) / values.numel()
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values.flatten().tolist()) / values.numel())
            standardized = (values[image].double() - mean) / deviation
            expected += weights[name] / 3.5 * literal_resampling(standardized, 5, 4)
        torch.testing.assert_close(fused[image].double(), expected, rtol=1e-5, atol=1e-6)


def test_fusion_does_not_depend_on_scale_and_offset_of_the_scores() -> None:
    draw = generator(1, "fusion")
    scores = {name: torch.randn(5, *grid, generator=draw) for name, grid in GRIDS.items()}
    results = []
    for scale, offset in ((1.0, 0.0), (50.0, 9.0)):
        values = scores | {"second": scale * scores["second"] + offset}
        moments = {name: Moments.of(each) for name, each in values.items()}
        results.append(ScoreFusion(moments, dict.fromkeys(GRIDS, 1.0), GRIDS)(values))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_resampling_to_the_same_size_is_the_identity(size: int) -> None:
    assert torch.equal(resampling_matrix(size, size), torch.eye(size, dtype=torch.float64))
    rows = resampling_matrix(size, 3 * size)
    torch.testing.assert_close(rows.sum(1), torch.ones(3 * size, dtype=torch.float64))
