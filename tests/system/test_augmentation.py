"""Whole runs with augmentation: which images are trained on and counted, and an error for an unknown augmentation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.utils.errors import UserError


@pytest.mark.parametrize("model", ["mixture", "patchcore", "whitened_memory", "moleflow", "padim"])
def test_augmentation_of_one_category(model: str, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    epochs = [] if model == "moleflow" else ["epochs=1"]
    tiny = [key for key in TINY if model == "moleflow" or not key.startswith("model.")]
    overrides = ["dataset=folder", f"dataset.root={root}", *tiny, f"model={model}", *epochs]

    def run(name: str, *more: str) -> tuple[dict[str, Any], MoLEFlow]:
        metrics = run_program([*overrides, *more], tmp_path / name)
        return metrics, MoLEFlow.load(tmp_path / name)

    metrics, detector = run("unaugmented")
    augmented_metrics, augmented = run("augmented", "+per_category.screw.augmentation=all")
    states = (d.patch_model.expert_state("bottle").values() for d in (detector, augmented))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    state, other = (d.patch_model.expert_state("screw") for d in (detector, augmented))
    assert any(a.shape != other[key].shape or not torch.equal(a, other[key]) for key, a in state.items())
    images = metrics["per_category"]["screw"]["train_pictures"]
    assert augmented_metrics["per_category"]["screw"]["train_pictures"] == images
    training = augmented.experts["screw"].training
    assert training is not None
    assert len(training.scores) == images  # thresholds are computed from the unaugmented images
    if "image_ids" in other:
        assert set(other["image_ids"].tolist()) <= set(range(images))
    if model == "moleflow":
        steps = [-(-count // 4) * 2 for count in (images, 8 * images)]
        assert augmented_metrics["training"]["steps"] - metrics["training"]["steps"] == steps[1] - steps[0]


@pytest.mark.parametrize("key", ["augmentation=flip", "+per_category.screw.augmentation=flip"])
def test_unknown_augmentation_raises_before_training(key: str, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    with pytest.raises(UserError, match=rf"{key.split('=')[0].lstrip('+')}=flip is unknown.*flips"):
        run_program(["dataset=folder", f"dataset.root={root}", *TINY, key], tmp_path / "run")
