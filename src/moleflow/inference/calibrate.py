"""Calibration of experts by images that were not trained on."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from moleflow.detector.base import Detector
from moleflow.detector.calibration import CRITERIA, MIN_IMAGES, Calibration
from moleflow.detector.inputs import files_in
from moleflow.detector.scorer import scores_of_normal_images
from moleflow.metrics.decisions import largest_f1
from moleflow.scoring.thresholds import FALSE_ALARM_RATE, images_for_rate
from moleflow.utils.errors import UserError, check_choice, check_range, list_names

_NORMAL_FOLDERS = frozenset(("good", "normal", "ok", "pass"))  # in lower case


def calibration_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the normal and the defective images of a folder.

    Images directly in the folder, or in a subfolder named good, normal, ok or pass, are normal; those of other
    subfolders are defective. A folder with the subfolder ``test`` is a category of a data set: its test images count.

    Raises:
        UserError: If there is no image.
    """
    base = folder / "test" if (folder / "test").is_dir() else folder
    normal: list[Path] = []
    defective: list[Path] = []
    for path in files_in(base):
        parts = path.relative_to(base).parts
        (normal if len(parts) == 1 or parts[0].lower() in _NORMAL_FOLDERS else defective).append(path)
    if not normal and not defective:
        raise UserError(f"{folder} has no images. Put normal images into it, or into {folder / 'good'}.")
    return normal, defective


def calibrate_expert(
    detector: Detector,
    name: str,
    normal: Sequence[Path],
    defective: Sequence[Path] = (),
    criterion: str = "rate",
    recall: float | None = None,
) -> Calibration:
    """Return the calibration of an expert.

    Args:
        detector: The detector.
        name: Name of the expert.
        normal: At least two normal images of the expert's categories that were not trained on.
        defective: Defective images; required by the criteria ``f1`` and ``recall``.
        criterion: ``rate``, ``f1`` or ``recall``; see :data:`~moleflow.detector.calibration.CRITERIA`.
        recall: Share of the defective images to be above the threshold, for ``recall``.

    Raises:
        UserError: If there are too few images, the normal ones are copies of one image or training images, or an
            argument is not allowed.
    """
    check_choice("criterion", criterion, CRITERIA)
    if len(normal) < MIN_IMAGES:
        raise UserError(
            f"{name}: {len(normal)} normal images cannot calibrate. Give at least {MIN_IMAGES}, better "
            f"{images_for_rate(FALSE_ALARM_RATE)}."
        )
    if criterion != "rate" and not defective:
        raise UserError(f"{name}: criterion={criterion} requires defective images, in subfolders other than good.")
    if (recall is None) == (criterion == "recall"):
        raise UserError("recall must be given with criterion=recall, and only then.")
    features = detector.image_features(normal)
    _check_new(detector, name, features, normal)
    image_scores, maxima = scores_of_normal_images(detector.scorer, name, detector.scorer.score_images(normal, name))
    scores = image_scores.tolist()
    if len(set(scores)) == 1:
        raise UserError(f"{name}: the normal images are copies of one image. Give different ones.")
    distances = detector.router.distances(features)[:, detector.router.names.index(name)].tolist()
    defect_scores: list[float] = []
    if defective:
        defect_patches = detector.scorer.score_images(defective, name)
        defect_scores = detector.scorer.image_scores(defect_patches, [name] * len(defective)).tolist()
    threshold = None
    if criterion == "f1":
        labels = [False] * len(scores) + [True] * len(defect_scores)
        _, threshold = largest_f1([*scores, *defect_scores], labels)
    elif recall is not None:
        threshold = threshold_at_recall(scores, defect_scores, recall)
    return Calibration(
        tuple(scores),
        tuple(maxima.tolist()),
        tuple(distances),
        tuple(detector.experts),
        tuple(defect_scores),
        threshold,
        criterion,
        recall,
    )


def threshold_at_recall(normal: Sequence[float], defective: Sequence[float], recall: float) -> float:
    """Return the highest threshold above which a share of the defective images lies.

    Args:
        normal: Scores of normal images.
        defective: Scores of defective images, at least one.
        recall: The share, in (0, 1].

    Raises:
        UserError: If the recall is not allowed.
    """
    check_range("recall", recall, 0, 1, low_open=True)
    ordered = np.sort(np.asarray(defective))[::-1]
    lowest_hit = float(ordered[math.ceil(recall * len(ordered) - 1e-9) - 1])
    below = [score for score in (*normal, *defective) if score < lowest_hit]
    return (lowest_hit + max(below)) / 2 if below else float(np.nextafter(lowest_hit, -math.inf))


def _check_new(detector: Detector, name: str, features: torch.Tensor, paths: Sequence[Path]) -> None:
    """Check that no image is a training image of the expert.

    Raises:
        UserError: If one is: its score would be too low.
    """
    training = detector.experts[name].training
    assert training is not None
    known = {tuple(row) for row in training.features.tolist()}
    copies = [path for path, row in zip(paths, features.tolist(), strict=True) if tuple(row) in known]
    if copies:
        raise UserError(
            f"{name}: {len(copies)} of {len(paths)} images were trained on ({list_names(copies[:3])}). Give normal "
            "images that were not."
        )
