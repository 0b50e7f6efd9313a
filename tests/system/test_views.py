"""Tests of the two views of a data set: whole images with full masks, and the center crop of the paper."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow import MoLEFlow
from moleflow.cli.command import main
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.image_io import image_size, read_image, read_mask
from moleflow.data.transforms import ImageTransform
from moleflow.reports.sections.warnings import run_warnings
from moleflow.runs.reader import Run, read_run
from moleflow.utils.errors import UserError

FAST = (*TINY, "model=gaussian", "epochs=1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("long"), ["bottle"], size=(50, 130), good=2, defect=6)


def test_paper_view_counts_the_cropped_defect_pixels(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        metrics = run_program(["dataset=folder", f"dataset.root={root}", "view=paper", *FAST], tmp_path)
    masks = metrics["masks"]
    (line,) = [record.message for record in caplog.records if "transform.mode=crop removes" in record.message]
    assert line.startswith("transform.mode=crop removes 61.5% of the area of the images (bottle: 61.5%) and ")
    assert f"{masks['pixels']:.1%} of the defect pixels" in line
    assert (masks["measured"], masks["masks"]) == ("cropped", 6)
    assert 0 < masks["pixels"] < 1
    assert masks["emptied"] > 0
    assert metrics["per_category"]["bottle"]["masks"] == {k: v for k, v in masks.items() if k != "measured"}
    assert f"{masks['emptied']} of 6 masks have no defect pixel" in caplog.text
    run = read_run(tmp_path, "run")
    assert isinstance(run, Run)
    assert f"{masks['emptied']} of 6 defect masks are empty in the model's view" in str(run_warnings(run))


@pytest.mark.parametrize("more", [[], ["transform.mode=pad", "transform.size=[32,64]"]])
def test_full_view_is_measured_on_every_pixel_of_the_files(root: Path, tmp_path: Path, more: list[str]) -> None:
    metrics = run_program(["dataset=folder", f"dataset.root={root}", *FAST, *more], tmp_path)
    assert metrics["masks"] == {"measured": "full", "masks": 6, "emptied": 0, "pixels": 0.0}
    data = FolderDataModule(root, ImageTransform(64))
    samples = data.samples("test", "bottle")
    model = MoLEFlow.load(tmp_path)
    transform = model.extractor.transform
    assert isinstance(transform, ImageTransform)
    labels, scores = [], []
    for sample, scored in zip(samples, model.score([sample.path for sample in samples]), strict=True):
        size = read_image(sample.path).size
        scores.append(transform.to_image(scored.anomaly_map, size).numpy().ravel())
        mask = np.zeros(size[::-1]) if sample.mask is None else np.asarray(read_mask(sample.mask))
        labels.append(mask.ravel() > 0)
    entry = metrics["per_category"]["bottle"]
    assert entry["pixel_auroc"] == pytest.approx(roc_auc_score(np.concatenate(labels), np.concatenate(scores)))
    expected = average_precision_score(np.concatenate(labels), np.concatenate(scores))
    assert entry["pixel_ap"] == pytest.approx(expected)
    assert 0 <= entry["pro"] <= 1


@pytest.mark.parametrize("model", [["model=patchcore", "model.size=20"], ["model=moleflow"]], ids=["memory", "flow"])
def test_size_of_each_expert_has_the_proportions_of_its_images(root: Path, tmp_path: Path, model: list[str]) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(root, tree)
    write_mvtec_tree(tree, ["screw"], good=2, defect=2)
    tiny = [o for o in TINY if not o.startswith("model.") or model == ["model=moleflow"]]
    run = tmp_path / "run"
    options = [
        *tiny,
        "backbone.name=resnet18",
        *model,
        "epochs=1",
        "augmentation=flips",
        "scoring.sigma=1",
        "callbacks=default",
    ]
    metrics = run_program(["dataset=folder", f"dataset.root={tree}", *options], run)
    assert metrics["routing_accuracy"] == 1  # routed at one size
    detector = MoLEFlow.load(run)
    bottle, screw = (detector.experts[name] for name in ("bottle", "screw"))
    assert (bottle.overrides, screw.overrides) == ({"transform": {"size": [32, 96]}}, {})
    assert (bottle.grid_shape, screw.grid_shape) == ((4, 12), (8, 8))
    assert screw.extractor is detector.extractor  # no second pass of the backbone
    (scored,) = detector.score([tree / "bottle/test/dent/000.png"])
    assert scored.anomaly_map.shape == (64, 64)
    turned = tmp_path / "turned.png"
    read_image(tree / "bottle/test/dent/000.png").rotate(90, expand=True).save(turned)
    (squashed,) = detector.score([turned], expert="bottle")  # an image of another shape
    assert squashed.anomaly_map.isfinite().all()
    arguments = ["predict", str(run), str(tree / "bottle/test/dent/000.png"), "--maps", str(tmp_path / "maps")]
    assert main(arguments) == 0
    (path,) = (tmp_path / "maps").iterdir()
    assert image_size(path) == (130, 50)


def test_full_view_of_visa_and_an_unknown_value_of_masks(tmp_path: Path) -> None:
    visa = write_visa_tree(tmp_path / "visa", size=(40, 90))
    change = ["dataset=visa", f"dataset.root={visa}", "dataset.categories=[candle]", *FAST]
    assert run_program([*change, "callbacks=default"], tmp_path / "run")["pixel_ap"] is not None
    with pytest.raises(UserError, match=r"masks=flul.*full"):
        run_program([*change, "masks=flul"], tmp_path / "other")


def test_run_with_other_masks_is_another_configuration(root: Path, tmp_path: Path) -> None:
    change = ["dataset=folder", f"dataset.root={root}", *FAST]
    run_program(change, tmp_path)
    assert "\nmasks: full\n" in (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match="masks: 'full' there, 'cropped' now"):
        run_program([*change, "masks=cropped"], tmp_path)
