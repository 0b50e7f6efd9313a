"""Tests of the training images of a task."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.models import batches
from moleflow.training.task import TrainingImages


def test_augmentations_have_the_indices_of_their_images() -> None:
    features = cast(Any, range(6))  # of two images and two augmentations of each
    images = TrainingImages(features, [], [Path("a"), Path("b")], groups=torch.tensor([0, 1]), grouped=False)
    assert images.image_ids.tolist() == [0, 1] * 3


def test_features_that_do_not_fit_into_memory_are_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ["bottle"], train=5, good=2, defect=2)
    tiny = [key for key in TINY if not key.startswith(("model.", "features."))]
    data = ["dataset=folder", f"dataset.root={tree}", f"features.cache_dir={tmp_path / 'cache'}"]
    options = [*data, *tiny, "model=mixture", "model.size=100000", "augmentation=flips"]
    loads = []
    load = batches.fits_into_chunk
    monkeypatch.setattr("moleflow.features.stream.fits_into_chunk", lambda size: loads.append(load(size)) or loads[-1])
    whole = run_program(options, tmp_path / "whole")
    monkeypatch.setattr(batches, "MAX_CHUNK_BYTES", 3 * 8 * 8 * 16 * 4)
    streamed = run_program(options, tmp_path / "streamed")
    assert loads == [True, False]
    scores = [(tmp_path / name / "scores.csv").read_text().splitlines()[1:] for name in ("whole", "streamed")]
    values = [torch.tensor([float(line.split(",")[4]) for line in lines]) for lines in scores]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-4)
    assert streamed["pixel_ap"] == pytest.approx(whole["pixel_ap"], abs=1e-6)
