"""Image scores and anomaly maps against direct computations and scipy, and their independence of the batch."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from moleflow.scoring.postprocessor import AGGREGATIONS, ScorePostprocessor, upsampling_matrix
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator


def _grids(count: int = 5, height: int = 7, width: int = 6) -> torch.Tensor:
    return -1500 + 300 * torch.randn(count, height, width, generator=generator(0, "test-scoring"))


def _reference(postprocessor: ScorePostprocessor, values: list[float]) -> float:
    ordered = sorted(values, reverse=True)
    top = {
        "max": 1,
        "mean": len(values),
        "top_k": postprocessor.top_k,
        "top_k_percent": max(1, int(len(values) * postprocessor.top_k_percent)),
    }
    if postprocessor.aggregation == "percentile":
        return float(np.quantile(values, postprocessor.percentile))
    return sum(ordered[: top[postprocessor.aggregation]]) / top[postprocessor.aggregation]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("extreme", [False, True])
def test_image_scores_equal_a_direct_computation(aggregation: str, extreme: bool) -> None:
    values = {"top_k": 1, "top_k_percent": 0.001, "percentile": 1.0} if extreme else {"percentile": 0.9, "top_k": 5}
    postprocessor = ScorePostprocessor(aggregation=aggregation, **values)  # type: ignore[arg-type]
    grids = _grids()
    expected = [_reference(postprocessor, grid.flatten().tolist()) for grid in grids]
    scores = postprocessor.image_scores(grids)
    assert scores.shape == (5,)
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [(28, 28), (16, 16), (7, 6), (1, 1), (3, 40)])
@pytest.mark.parametrize(("map_size", "sigma"), [(224, 4.0), ((60, 33), 1.2), (9, 4.0), (5, 7.0), (224, 0.0)])
def test_maps_equal_scipy(size: tuple[int, int], map_size: int | tuple[int, int], sigma: float) -> None:
    grids = _grids(2, *size)
    postprocessor = ScorePostprocessor(map_size=map_size, sigma=sigma)
    maps = postprocessor.anomaly_maps(grids)
    wide = torch.nn.functional.interpolate(
        grids[:, None], postprocessor.map_shape, mode="bilinear", align_corners=True
    )[:, 0]
    smooth = [ndimage.gaussian_filter(m, sigma, mode="reflect") if sigma else m for m in wide.double().numpy()]
    expected = torch.from_numpy(np.stack(smooth)).float()
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-3)  # of scores about -1500


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_scores_and_maps_do_not_depend_on_the_batch(aggregation: str) -> None:
    grids = _grids(9, 28, 27)
    postprocessor = ScorePostprocessor(aggregation=aggregation)
    scores, maps = postprocessor.image_scores(grids), postprocessor.anomaly_maps(grids)
    assert scores.equal(torch.cat([postprocessor.image_scores(part) for part in grids.split(2)]))
    assert maps.equal(torch.cat([postprocessor.anomaly_maps(part) for part in grids.split(2)]))
    with_nan = torch.cat([grids[:1], torch.full_like(grids[:1], torch.nan), grids[2:]])
    assert postprocessor.anomaly_maps(with_nan)[[0, 2]].equal(maps[[0, 2]])
    strided = grids.flip(0).transpose(1, 2).contiguous().transpose(1, 2)
    assert postprocessor.anomaly_maps(strided).flip(0).equal(maps)
    assert postprocessor.image_scores(strided).flip(0).equal(scores)


def test_maps_preserve_constants_and_differences_of_large_scores() -> None:
    constant = torch.full((1, 14, 14), -123456.0)
    torch.testing.assert_close(ScorePostprocessor().anomaly_maps(constant), torch.full((1, 224, 224), -123456.0))
    small = torch.rand(1, 14, 14, generator=generator(0, "test-scoring")).mul(1024).round() / 1024
    shifted = ScorePostprocessor().anomaly_maps(small + 4096) - 4096
    torch.testing.assert_close(shifted, ScorePostprocessor().anomaly_maps(small), rtol=0, atol=5e-4)


def test_half_precision_scores_are_processed_in_float32() -> None:
    grids = _grids().bfloat16()
    assert ScorePostprocessor().image_scores(grids).equal(ScorePostprocessor().image_scores(grids.float()))
    assert ScorePostprocessor().anomaly_maps(grids).equal(ScorePostprocessor().anomaly_maps(grids.float()))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_nan_is_propagated(aggregation: str) -> None:
    grids = _grids()
    grids[1, 0, 0] = torch.nan
    scores = ScorePostprocessor(aggregation=aggregation).image_scores(grids)
    assert scores.isnan().tolist() == [False, True, False, False, False]


def test_median_subtraction_and_pooling_equal_a_direct_computation() -> None:
    grids = _grids()
    scores = ScorePostprocessor(aggregation="max", pool=3, subtract_median=0.5).image_scores(grids)
    for grid, score in zip(grids.double().numpy(), scores.tolist(), strict=True):
        h, w = grid.shape
        pooled = [grid[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean() for i in range(h) for j in range(w)]
        median = np.sort(grid, axis=None)[(grid.size - 1) // 2]
        assert score == pytest.approx(max(pooled) - 0.5 * median, rel=1e-5)


def test_median_subtraction_removes_the_level_of_an_image() -> None:
    grids, raised = _grids(), _grids() + 400.0
    postprocessor = ScorePostprocessor(subtract_median=1.0, map_subtract_median=1.0, map_size=16)
    for method, atol in ((postprocessor.image_scores, 1e-3), (postprocessor.anomaly_maps, 1e-2)):
        torch.testing.assert_close(method(grids), method(raised), rtol=1e-5, atol=atol)
    plain = ScorePostprocessor(map_size=16)
    assert bool((plain.anomaly_maps(raised) - plain.anomaly_maps(grids) > 399).all())


def test_an_empty_batch_has_no_scores_and_maps() -> None:
    assert ScorePostprocessor().image_scores(torch.empty(0, 4, 4)).shape == (0,)
    assert ScorePostprocessor(map_size=8).anomaly_maps(torch.empty(0, 4, 4)).shape == (0, 8, 8)


def test_top_k_above_the_number_of_patches_is_an_error() -> None:
    with pytest.raises(UserError, match="top_k=43 is more than the 42 patches"):
        ScorePostprocessor(top_k=43).image_scores(_grids())
    assert ScorePostprocessor(aggregation="max", top_k=43).image_scores(_grids()).shape == (5,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"aggregation": "topk"}, "Did you mean 'top_k'"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k_percent": 5.0}, "5 % is 0.05"),
        ({"top_k_percent": 0.0}, "top_k_percent"),
        ({"percentile": 99}, "99th percentile is 0.99"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"pool": 2}, "pool=2"),
        ({"subtract_median": 1.5}, r"^subtract_median=1.5 must lie in \[0, 1\]"),
        ({"map_subtract_median": -0.5}, "map_subtract_median=-0.5"),
        ({"map_size": 0}, "map_size"),
        ({"map_size": (3, 4, 5)}, "map_size"),
    ],
)
def test_invalid_values_are_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ScorePostprocessor(**arguments)  # type: ignore[arg-type]


def test_sigma_in_patches_is_sigma_in_pixels_of_each_axis() -> None:
    grid = torch.rand(1, 8, 4, generator=torch.Generator().manual_seed(0))
    patches = ScorePostprocessor(map_size=64, sigma=0.5, sigma_unit="patch").anomaly_maps(grid)
    rows, columns = upsampling_matrix(8, 64, 4.0), upsampling_matrix(4, 64, 8.0)
    torch.testing.assert_close(patches, (rows @ grid.double() @ columns.T).float())
    square, pixels = (ScorePostprocessor(map_size=64, sigma=s, sigma_unit=u) for s, u in ((0.5, "patch"), (4, "pixel")))
    assert torch.equal(
        square.anomaly_maps(grid[:, :4, :].repeat(1, 2, 2)), pixels.anomaly_maps(grid[:, :4, :].repeat(1, 2, 2))
    )
