"""Unweighted means over categories."""

import pytest

from moleflow.metrics.averaging import mean_over_categories


def test_categories_have_equal_weight_and_missing_values_are_left_out() -> None:
    nan = float("nan")
    means = mean_over_categories(
        {
            "bottle": {"image_auroc": 1.0, "pixel_ap": 0.5},
            "cookie": {"image_auroc": 0.5},
            "screw": {"image_auroc": nan, "pixel_ap": 0.1, "pro": nan},
            "toy": {"image_auroc": 0.0, "pixel_ap": None},
        }
    )
    assert means == {"image_auroc": pytest.approx(0.5), "pixel_ap": pytest.approx(0.3), "pro": None}


def test_without_categories_there_are_no_means() -> None:
    assert mean_over_categories({}) == {}
