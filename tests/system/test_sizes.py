"""Tests of whole runs with several image sizes and backbones: training, loading, scoring."""

from pathlib import Path

import pytest
import torch

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.utils.errors import UserError

DINOV2 = ("backbone=dinov2_base", "backbone.name=vit_small_patch14_reg4_dinov2", "backbone.layers=[1,3]")
DINOV3 = ("backbone=dinov3_base", "backbone.name=vit_small_patch16_dinov3", "backbone.layers=[1,3]")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ["bottle"], size=(60, 90), train=3, good=1, defect=2)


@pytest.mark.parametrize(
    ("change", "grid", "map_shape"),
    [
        (["transform.size=448"], (56, 56), (448, 448)),
        (["transform.size=448", "scoring.map_size=224"], (56, 56), (224, 224)),  # as in the first implementation
        (["transform.size=[192,320]", "view=paper"], (24, 40), (192, 320)),
        (["transform.size=[192,320]"], (24, 40), (192, 320)),
        ([*DINOV2, "transform.size=[56,84]"], (4, 6), (56, 84)),  # patch 14, class and four register tokens
        ([*DINOV3, "transform.size=[64,96]"], (4, 6), (64, 96)),  # patch 16, rotary positions
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_grid_and_maps_have_the_size_of_the_configuration(
    change: list[str], grid: tuple[int, int], map_shape: tuple[int, int], root: Path, tmp_path: Path
) -> None:
    metrics = run_program(["dataset=folder", f"dataset.root={root}", *TINY, "epochs=1", *change], tmp_path)
    assert metrics["training"]["steps"] == 1
    assert 0 <= metrics["pixel_ap"] <= 1
    model = MoLEFlow.load(tmp_path)
    paths = sorted((root / "bottle/test/dent").iterdir())
    assert model.extractor.features(paths).shape[1:] == (*grid, 16)
    (scored,) = model.score(paths[:1])
    assert scored.anomaly_map.shape == map_shape
    assert bool(torch.isfinite(scored.anomaly_map).all())


def test_size_that_is_no_multiple_of_the_patch_is_an_error_before_training(root: Path, tmp_path: Path) -> None:
    change = ["dataset=folder", f"dataset.root={root}", *TINY, *DINOV2, "transform.size=[100,112]"]
    with pytest.raises(UserError, match=r"14 x 14 patches.*transform.size=\[98, 112\] and \[112, 112\]"):
        run_program(change, tmp_path)
    per_category = [*change[:-1], "transform.size=56", "view=paper", "+per_category.bottle.transform.size=60"]
    with pytest.raises(UserError, match=r"transform.size=\[56, 56\] and \[70, 70\]"):
        run_program(per_category, tmp_path / "per_category")
