"""Tests of the two views of a data set: the center crop of the paper, and whole images with full masks."""

import logging
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow import MoLEFlow
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.image_io import read_image, read_mask
from moleflow.data.transforms import ImageTransform
from moleflow.report.sections.warnings import run_warnings
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
        metrics = run_program(["dataset=folder", f"dataset.root={root}", *FAST], tmp_path)
    masks = metrics["masks"]
    assert (masks["measured"], masks["masks"]) == ("cropped", 6)
    assert 0 < masks["pixels"] < 1
    assert masks["emptied"] > 0
    assert metrics["per_category"]["bottle"]["masks"] == {k: v for k, v in masks.items() if k != "measured"}
    assert f"{masks['emptied']} of 6 masks have no defect pixel" in caplog.text
    run = read_run(tmp_path, "run")
    assert isinstance(run, Run)
    assert f"{masks['emptied']} of 6 defect masks are empty in the model's view" in str(run_warnings(run))


@pytest.mark.parametrize("more", [["view=full"], ["view=full", "transform.mode=pad", "transform.size=[32,64]"]])
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


def test_full_view_of_visa_and_an_unknown_value_of_masks(tmp_path: Path) -> None:
    visa = write_visa_tree(tmp_path / "visa", size=(40, 90))
    change = ["dataset=visa", f"dataset.root={visa}", "dataset.categories=[candle]", *FAST, "view=full"]
    assert run_program([*change, "callbacks=default"], tmp_path / "run")["pixel_ap"] is not None
    with pytest.raises(UserError, match=r"masks=flul.*full"):
        run_program([*change, "masks=flul"], tmp_path / "other")


def test_run_with_other_masks_is_another_configuration(root: Path, tmp_path: Path) -> None:
    change = ["dataset=folder", f"dataset.root={root}", *FAST]
    run_program(change, tmp_path)
    assert "\nmasks: cropped\n" in (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match="masks: 'cropped' there, 'full' now"):
        run_program([*change, "masks=full"], tmp_path)
