"""Small detectors: trained by a run of the whole program, or fitted in closed form in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers.composing import once
from helpers.program import TINY, run_program
from moleflow.detector.detector import MoLEFlow
from moleflow.experiment.build import model_settings


class SmallRun(NamedTuple):
    """A finished run.

    Attributes:
        folder: The run folder.
        tree: Root of a data set with the categories bottle, screw and tile; the run is trained on the first two.
    """

    folder: Path
    tree: Path


def train_small_run(tree: Path, folder: Path, *overrides: str) -> None:
    """Train a small flow on a tree long enough to tell its categories and defects apart."""
    data = ("dataset=folder", f"dataset.root={tree}")
    run_program([*TINY, *data, "epochs=8", "optimizer.lr=3e-3", *overrides], folder)


def small_settings(*overrides: str) -> dict[str, Any]:
    """Return the model settings of a small configuration; by default one Gaussian per expert."""
    tiny = [override for override in TINY if not override.startswith("model.")]
    return model_settings(once("dataset=folder", "dataset.root=unused", *tiny, "model=gaussian", *overrides))


def fit_detector(tree: Path, *overrides: str, categories: Sequence[str] = ("bottle", "screw")) -> MoLEFlow:
    """Return a detector with one expert per category, fitted in closed form.

    Args:
        tree: Root of the data set.
        overrides: Overrides of the configuration.
        categories: The categories.
    """
    detector = MoLEFlow(small_settings(*overrides), cache="memory")
    for category in categories:
        fit_expert(detector, category, training_images(tree, category))
    return detector


def fit_expert(
    detector: MoLEFlow,
    name: str,
    paths: Sequence[Path],
    overrides: Mapping[str, Any] | None = None,
    groups: Tensor | None = None,
) -> None:
    """Add an expert, named like its category, to a detector and fit it in closed form.

    Args:
        detector: The detector.
        name: Name of expert and category.
        paths: The training images.
        overrides: The overrides of the expert.
        groups: Index of each image's group; None if every image is a group.
    """
    detector.add_expert(name, [name], overrides)
    image_features = detector.image_features(paths)
    patch_scores = {}
    indices = torch.arange(len(paths)) if groups is None else groups
    for feature_set in detector.feature_sets.values():
        features = detector.experts[name].extractors[feature_set.name].features(paths)
        if feature_set.is_first:
            detector.fit_expert(name, [features], indices, image_features)
        else:
            feature_set.fit(name, [features], indices)
        patch_scores[feature_set.name] = feature_set.patch_scores(features, name, paths, indices)
    detector.register_with_router(name, image_features)
    detector.calibrate(name, patch_scores, image_features, groups)


def training_images(tree: Path, category: str) -> list[Path]:
    """Return the training images of a category."""
    return sorted((tree / category / "train/good").iterdir())


def normal_images(tree: Path, category: str) -> list[Path]:
    """Return the normal test images of a category."""
    return sorted((tree / category / "test/good").iterdir())
