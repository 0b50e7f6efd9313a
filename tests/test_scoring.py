"""Scores and maps against literal versions and scipy, and their independence of the batch."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from moleflow.errors import UserError
from moleflow.randomness import generator
from moleflow.scoring import AGGREGATIONS, Scoring


def _grids(count: int = 5, height: int = 7, width: int = 6) -> torch.Tensor:
    return -1500 + 300 * torch.randn(count, height, width, generator=generator(0, "test-scoring"))


def _literal(scoring: Scoring, values: list[float]) -> float:
    ordered = sorted(values, reverse=True)
    top = {
        "max": 1,
        "mean": len(values),
        "top_k": scoring.top_k,
        "top_k_percent": max(1, int(len(values) * scoring.top_k_percent)),
    }
    if scoring.aggregation == "percentile":
        return float(np.quantile(values, scoring.percentile))
    return sum(ordered[: top[scoring.aggregation]]) / top[scoring.aggregation]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("extreme", [False, True])
def test_image_scores_equal_the_literal_ones(aggregation: str, extreme: bool) -> None:
    values = {"top_k": 1, "top_k_percent": 0.001, "percentile": 1.0} if extreme else {"percentile": 0.9, "top_k": 5}
    scoring = Scoring(aggregation=aggregation, **values)  # type: ignore[arg-type]
    grids = _grids()
    expected = [_literal(scoring, grid.flatten().tolist()) for grid in grids]
    scores = scoring.image_scores(grids)
    assert scores.shape == (5,)
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [(28, 28), (16, 16), (7, 6), (1, 1), (3, 40)])
@pytest.mark.parametrize(("map_size", "sigma"), [(224, 4.0), ((60, 33), 1.2), (9, 4.0), (5, 7.0), (224, 0.0)])
def test_maps_equal_scipy(size: tuple[int, int], map_size: int | tuple[int, int], sigma: float) -> None:
    grids = _grids(2, *size)
    scoring = Scoring(map_size=map_size, sigma=sigma)
    maps = scoring.anomaly_maps(grids)
    wide = torch.nn.functional.interpolate(grids[:, None], scoring.map_shape, mode="bilinear", align_corners=True)[:, 0]
    smooth = [ndimage.gaussian_filter(m, sigma, mode="reflect") if sigma else m for m in wide.double().numpy()]
    expected = torch.from_numpy(np.stack(smooth)).float()
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-3)  # of scores about -1500


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_picture_does_not_feel_its_batch(aggregation: str) -> None:
    grids = _grids(9, 28, 27)
    scoring = Scoring(aggregation=aggregation)
    scores, maps = scoring.image_scores(grids), scoring.anomaly_maps(grids)
    assert scores.equal(torch.cat([scoring.image_scores(part) for part in grids.split(2)]))
    assert maps.equal(torch.cat([scoring.anomaly_maps(part) for part in grids.split(2)]))
    spoilt = torch.cat([grids[:1], torch.full_like(grids[:1], torch.nan), grids[2:]])
    assert scoring.anomaly_maps(spoilt)[[0, 2]].equal(maps[[0, 2]])
    strided = grids.flip(0).transpose(1, 2).contiguous().transpose(1, 2)
    assert scoring.anomaly_maps(strided).flip(0).equal(maps)
    assert scoring.image_scores(strided).flip(0).equal(scores)


def test_smoothing_keeps_constants_and_differences_of_large_scores() -> None:
    constant = torch.full((1, 14, 14), -123456.0)
    torch.testing.assert_close(Scoring().anomaly_maps(constant), torch.full((1, 224, 224), -123456.0))
    small = torch.rand(1, 14, 14, generator=generator(0, "test-scoring")).mul(1024).round() / 1024
    shifted = Scoring().anomaly_maps(small + 4096) - 4096
    torch.testing.assert_close(shifted, Scoring().anomaly_maps(small), rtol=0, atol=5e-4)


def test_half_precision_scores_give_float32() -> None:
    grids = _grids().bfloat16()
    assert Scoring().image_scores(grids).equal(Scoring().image_scores(grids.float()))
    assert Scoring().anomaly_maps(grids).equal(Scoring().anomaly_maps(grids.float()))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_nan_is_passed_on_not_replaced(aggregation: str) -> None:
    grids = _grids()
    grids[1, 0, 0] = torch.nan
    scores = Scoring(aggregation=aggregation).image_scores(grids)
    assert scores.isnan().tolist() == [False, True, False, False, False]


def test_pooled_and_centred_score_equals_the_literal_one() -> None:
    grids = _grids()
    scores = Scoring(aggregation="max", pool=3, centre=0.5).image_scores(grids)
    for grid, score in zip(grids.double().numpy(), scores.tolist(), strict=True):
        h, w = grid.shape
        pooled = [grid[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean() for i in range(h) for j in range(w)]
        median = np.sort(grid, axis=None)[(grid.size - 1) // 2]
        assert score == pytest.approx(max(pooled) - 0.5 * median, rel=1e-5)


def test_centring_takes_the_level_of_a_picture_off_score_and_map() -> None:
    grids, raised = _grids(), _grids() + 400.0
    centred = Scoring(centre=1.0, map_centre=1.0, map_size=16)
    torch.testing.assert_close(centred.image_scores(grids), centred.image_scores(raised), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(centred.anomaly_maps(grids), centred.anomaly_maps(raised), rtol=1e-5, atol=1e-2)
    assert bool((Scoring(map_size=16).anomaly_maps(raised) - Scoring(map_size=16).anomaly_maps(grids) > 399).all())


def test_no_picture_gives_no_score() -> None:
    assert Scoring().image_scores(torch.empty(0, 4, 4)).shape == (0,)
    assert Scoring(map_size=8).anomaly_maps(torch.empty(0, 4, 4)).shape == (0, 8, 8)


def test_more_patches_than_there_are_is_told() -> None:
    with pytest.raises(UserError, match="top_k=43 is more than the 42 patches"):
        Scoring(top_k=43).image_scores(_grids())
    assert Scoring(aggregation="max", top_k=43).image_scores(_grids()).shape == (5,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"aggregation": "topk"}, "Did you mean 'top_k'"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k_percent": 5.0}, "5 % is 0.05"),
        ({"top_k_percent": 0.0}, "top_k_percent"),
        ({"percentile": 99}, "99th is 0.99"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"pool": 2}, "pool=2"),
        ({"centre": 1.5}, "centre=1.5"),
        ({"map_centre": -0.5}, "map_centre=-0.5"),
        ({"map_size": 0}, "map_size"),
        ({"map_size": (3, 4, 5)}, "map_size"),
    ],
)
def test_bad_values_are_told(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scoring(**arguments)  # type: ignore[arg-type]
