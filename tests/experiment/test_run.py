"""Tests of the objective that a search maximizes, and of errors of the disk."""

import errno
from pathlib import Path

import pytest

from moleflow.experiment.run import check_objective, disk_errors, objective
from moleflow.utils.errors import UserError

METRICS = {"pixel_ap": None, "image_auroc": 0.9, "oracle": {"pixel_ap": 0.5}, "per_category": {"screw": {"pro": 0.25}}}


def test_objective_at_any_depth() -> None:
    assert objective(METRICS, "image_auroc") == 0.9
    assert objective(METRICS, "per_category.screw.pro") == 0.25
    assert objective(METRICS, "pixel_ap") is None  # without masks


@pytest.mark.parametrize(
    ("key", "message"),
    [("oracle.pixel_app", "Did you mean 'pixel_ap'"), ("oracle", "not a number"), ("pixel_ap.x", "no 'x'")],
)
def test_objective_without_a_number_is_an_error(key: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective(METRICS, key)


def test_unknown_objective_is_an_error_before_the_run() -> None:
    check_objective("per_category.screw.pro")
    with pytest.raises(UserError, match="Did you mean 'pixel_ap'"):
        check_objective("pixl_ap")


def test_worker_of_a_data_parallel_run_has_no_objective() -> None:
    assert objective({}, "pixel_ap") is None


def test_disk_errors_have_the_file_and_the_remedy(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "model/base.safetensors")
    with (
        pytest.raises(UserError, match=r"^model/base\.safetensors: No space left on device\. .*same command again"),
        disk_errors(tmp_path),
    ):
        raise error
    with pytest.raises(UserError, match=f"^{tmp_path}: "), disk_errors(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")
