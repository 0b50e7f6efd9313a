"""The two views of a data set: the paper's centre, and whole images measured on every pixel of the files."""

import logging
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow import MoLEFlow
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.image_io import read_mask, read_image
from moleflow.data.transforms import ImageTransform
from moleflow.report.sections.warnings import run_warnings
from moleflow.runs.reader import Run, read_run
from moleflow.utils.errors import UserError

FAST = (*TINY, "model=gaussian", "epochs=1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("long"), ["bottle"], size=(50, 130), good=2, defect=6)


def test_paper_view_counts_what_it_cuts_off(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        metrics = run_program(["dataset=folder", f"dataset.root={root}", *FAST], tmp_path)
    masks = metrics["masks"]
    assert (masks["measured"], masks["masks"]) == ("seen", 6)
    assert 0 < masks["pixels"] < 1
    assert masks["emptied"] > 0
    assert metrics["per_category"]["bottle"]["masks"] == {k: v for k, v in masks.items() if k != "measured"}
    assert f"of 6 marked defects {masks['emptied']} have no marked pixel" in caplog.text
    read = read_run(tmp_path, "run")
    assert isinstance(read, Run)
    assert f"{masks['emptied']} of 6 marked defects lie where nothing is looked at" in str(run_warnings(read))


@pytest.mark.parametrize("more", [["view=full"], ["view=full", "transform.mode=pad", "transform.size=[32,64]"]])
def test_full_view_is_measured_on_every_pixel_of_the_files(root: Path, tmp_path: Path, more: list[str]) -> None:
    metrics = run_program(["dataset=folder", f"dataset.root={root}", *FAST, *more], tmp_path)
    assert metrics["masks"] == {"measured": "native", "masks": 6, "emptied": 0, "pixels": 0.0}
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
    found = metrics["per_category"]["bottle"]
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(np.concatenate(labels), np.concatenate(scores)))
    expected = average_precision_score(np.concatenate(labels), np.concatenate(scores))
    assert found["pixel_ap"] == pytest.approx(expected)
    assert 0 <= found["pro"] <= 1


def test_views_go_with_visa_and_nonsense_is_told(tmp_path: Path) -> None:
    visa = write_visa_tree(tmp_path / "visa", size=(40, 90))
    change = ["dataset=visa", f"dataset.root={visa}", "dataset.categories=[candle]", *FAST, "view=full"]
    assert run_program([*change, "callbacks=default"], tmp_path / "run")["pixel_ap"] is not None
    with pytest.raises(UserError, match=r"masks=natvie.*native"):
        run_program([*change, "masks=natvie"], tmp_path / "other")


def test_a_run_from_before_there_were_views_goes_on(root: Path, tmp_path: Path) -> None:
    change = ["dataset=folder", f"dataset.root={root}", *FAST]
    first = run_program(change, tmp_path)
    recorded = (tmp_path / "config.yaml").read_text()
    assert "\nmasks: seen\n" in recorded
    (tmp_path / "config.yaml").write_text(recorded.replace("\nmasks: seen\n", "\n"))
    assert run_program(change, tmp_path) == first
    with pytest.raises(UserError, match="masks: 'seen' there, 'native' now"):
        run_program([*change, "masks=full"], tmp_path)
