"""The fast pooling against a literal implementation of its definition."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow.features.patch_pooling import LayerConcatenation, PatchPooling


def literal_pooling(maps: Sequence[Tensor], dim: int) -> Tensor:
    """Unfold, interpolate every (channel, position) plane, average adaptively and take the mean over layers."""
    h, w = maps[0].shape[-2:]
    reduced = []
    for feature_map in maps:
        b, _, rows, columns = feature_map.shape
        planes = F.unfold(feature_map, kernel_size=3, padding=1).view(b, -1, rows, columns)
        if (rows, columns) != (h, w):
            planes = F.interpolate(planes, size=(h, w), mode="bilinear", align_corners=False)
        patches = planes.permute(0, 2, 3, 1).reshape(b * h * w, 1, -1)
        reduced.append(F.adaptive_avg_pool1d(patches, dim).view(b, h, w, dim))
    return torch.stack(reduced).mean(0)


@pytest.mark.parametrize(
    ("shapes", "dim"),
    [
        ([(512, 28, 28), (1024, 14, 14)], 768),  # WideResNet-50-2 at 224
        ([(40, 28, 28), (112, 14, 14)], 128),  # EfficientNet-Lite0 at 224
        ([(40, 9, 14), (112, 5, 7)], 128),  # grids that are not square, with a ratio other than 2
        ([(41, 8, 6), (113, 4, 3)], 128),  # no common divisor: the channels of each bin are gathered
        ([(7, 5, 5)], 12),  # bins smaller than a patch, one layer
        ([(2, 6, 4)], 64),  # more bins than entries
        ([(1, 4, 4)], 4),
        ([(300, 6, 6), (64, 6, 6), (30, 3, 3)], 1),  # one bin
        ([(24, 4, 4), (16, 8, 8)], 20),  # the coarse layer first: the finer one is resized to it
    ],
)
def test_pooling_equals_its_definition(shapes: list[tuple[int, int, int]], dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, *shape, generator=generator) for shape in shapes]
    pooled = PatchPooling([shape[0] for shape in shapes], dim)(maps)
    torch.testing.assert_close(pooled, literal_pooling(maps, dim), rtol=1e-5, atol=1e-5)


def test_pooling_has_no_parameters_and_no_state() -> None:
    pooling = PatchPooling([41, 64], 128)
    assert pooling.state_dict() == {}
    assert list(pooling.parameters()) == []


def test_other_number_of_layers_raises() -> None:
    with pytest.raises(ValueError, match="shorter"):
        PatchPooling([4, 8], 4)([torch.zeros(1, 4, 2, 2)])


def test_concatenation_has_the_zero_padded_averages_of_all_layers() -> None:
    fine, coarse = (
        torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)) for shape in ((3, 4, 6), (5, 2, 3))
    )
    joined = LayerConcatenation()([fine, coarse])
    assert joined.shape == (2, 4, 6, 8)
    padded = F.pad(fine, (1, 1, 1, 1))
    for row, column in ((0, 0), (2, 3), (3, 5)):
        expected = padded[:, :, row : row + 3, column : column + 3].sum((2, 3)) / 9
        torch.testing.assert_close(joined[:, row, column, :3], expected)
    average = F.unfold(coarse, 3, padding=1).view(2, 5, 9, 2, 3).mean(2)
    resized = F.interpolate(average, size=(4, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(joined[..., 3:], resized.permute(0, 2, 3, 1))
