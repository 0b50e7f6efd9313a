"""Tests of the objective that a search maximizes."""

import shutil
from pathlib import Path

import pytest

from helpers.trees import write_mvtec_tree
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.transforms import ImageTransform
from moleflow.experiment.objective import check_objective, check_search_objective, objective
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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FolderDataModule:
    root = write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), train=1, good=1, defect=1)
    shutil.rmtree(root / "screw/ground_truth")
    return FolderDataModule(root, ImageTransform(64))


@pytest.mark.parametrize(
    "key", ["pixel_ap", "oracle.pro", "per_category.bottle.pixel_ap", "routing_accuracy", "seconds"]
)
def test_metrics_that_the_data_permits_can_be_searched(key: str, data: FolderDataModule) -> None:
    check_search_objective(key, data, 2)


@pytest.mark.parametrize(
    ("key", "num_tasks", "message"),
    [
        ("per_category.screw.pro", 2, r"screw has no masks.*Set objective=per_category\.screw\.image_auroc"),
        ("forgetting.pixel_ap", 1, "forgetting.pixel_ap does not exist with one task"),
    ],
)
def test_metrics_that_the_data_lacks_cannot_be_searched(
    key: str, num_tasks: int, message: str, data: FolderDataModule
) -> None:
    with pytest.raises(UserError, match=message):
        check_search_objective(key, data, num_tasks)


def test_image_metrics_need_both_classes(tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path, ("bottle",), train=1, good=1, defect=0)
    with pytest.raises(UserError, match=r"objective=image_auroc cannot be searched: .* of one class only"):
        check_search_objective("image_auroc", FolderDataModule(root, ImageTransform(64)))


def test_worker_of_a_data_parallel_run_has_no_objective() -> None:
    assert objective({}, "pixel_ap") is None
