"""Whole runs with closed-form models."""

from pathlib import Path

import pytest
import torch

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow

SETTINGS = [setting for setting in TINY if not setting.startswith("model.")]


@pytest.mark.parametrize("model", ["gaussian", "patchcore", "padim", "mixture"])
def test_loaded_model_reproduces_the_scores_of_the_run(model: str, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    overrides = ["dataset=folder", f"dataset.root={root}", *SETTINGS, f"model={model}", "scoring.standardize=true"]
    metrics = run_program(overrides, tmp_path / "run")
    assert metrics["training"]["steps"] == 0
    assert all(count > 0 for count in metrics["parameters"]["experts"].values())
    rows = [line.split(",") for line in (tmp_path / "run/scores.csv").read_text().splitlines()[1:]]
    images = MoLEFlow.load(tmp_path / "run").score([root / row[0] for row in rows])
    assert [repr(image.score) for image in images] == [row[4] for row in rows]


@pytest.mark.parametrize("model", ["patchcore", "mixture", "whitened_memory"])
def test_training_scores_exclude_the_own_image(model: str, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    run_program(["dataset=folder", f"dataset.root={root}", *SETTINGS, f"model={model}"], tmp_path / "run")
    detector = MoLEFlow.load(tmp_path / "run")
    paths = sorted((root / "bottle/train/good").iterdir())
    scores = torch.tensor([image.score for image in detector.score(paths, "bottle")])
    training = detector.experts["bottle"].training
    assert training is not None
    assert bool((training.scores >= scores - 1e-3).all())
    assert float(training.scores.mean()) > float(scores.mean()) + 1e-3
