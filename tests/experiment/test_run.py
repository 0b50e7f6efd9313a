"""The number a search maximises."""

import pytest

from moleflow.experiment.run import check_objective, objective
from moleflow.utils.errors import UserError

METRICS = {"pixel_ap": None, "image_auroc": 0.9, "oracle": {"pixel_ap": 0.5}, "per_category": {"screw": {"pro": 0.25}}}


def test_numbers_at_any_depth() -> None:
    assert objective(METRICS, "image_auroc") == 0.9
    assert objective(METRICS, "per_category.screw.pro") == 0.25
    assert objective(METRICS, "pixel_ap") is None  # no masks


@pytest.mark.parametrize(
    ("key", "message"),
    [("oracle.pixel_app", "Did you mean 'pixel_ap'"), ("oracle", "not a number"), ("pixel_ap.x", "no 'x'")],
)
def test_what_is_not_a_number(key: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective(METRICS, key)


def test_a_wrong_name_is_refused_before_the_run() -> None:
    check_objective("per_category.screw.pro")
    with pytest.raises(UserError, match="Did you mean 'pixel_ap'"):
        check_objective("pixl_ap")


def test_a_worker_of_a_data_parallel_run_has_none() -> None:
    assert objective({}, "pixel_ap") is None
