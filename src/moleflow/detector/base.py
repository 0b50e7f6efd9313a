"""Base class of detectors, which are single models or ensembles."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moleflow.detector.predictor import Prediction, Predictor
from moleflow.detector.scorer import Scorer
from moleflow.detector.types import ExpertRecord, ScoredImage
from moleflow.features.extractor import FeatureExtractor
from moleflow.routing.router import Router
from moleflow.scoring.thresholds import SCORE_DEVIATIONS, Thresholds, thresholds
from moleflow.utils.errors import UserError, did_you_mean, list_names


class Detector(ABC):
    """Base class of objects that route images to experts, score them and classify them.

    Attributes:
        device: Device of the computations.
        extractor: Extractor of the patch features by which images are routed.
        router: Router, which selects the expert of an image.
        scorer: Scorer, which computes patch scores, image scores and anomaly maps under an expert.
        experts: Records of the experts by name, in the order in which they were added.
    """

    device: torch.device
    extractor: FeatureExtractor
    router: Router
    scorer: Scorer
    experts: Mapping[str, ExpertRecord]

    @abstractmethod
    def parameter_counts(self) -> dict[str, Any]:
        """Return the numbers of values of ``base``, ``experts`` (by name) and ``backbone``.

        The backbone is counted although a model folder does not contain it.
        """

    def expert_of(self, category: str) -> str:
        """Return the name of the expert that was trained on a category.

        Raises:
            UserError: If there is none.
        """
        for name, record in self.experts.items():
            if category in record.categories:
                return name
        raise UserError(f"No expert was trained on category={category!r}.")

    def thresholds(self, name: str, deviations: float = SCORE_DEVIATIONS) -> Thresholds:
        """Return the thresholds of an expert.

        The score threshold depends on the expert's training images only. The distance threshold depends on the
        training images of all experts if the router has one covariance for all of them, and then changes when an
        expert is added.

        Args:
            name: Name of the expert.
            deviations: Number of standard deviations between the mean training score and the score threshold.

        Raises:
            UserError: If the expert has no training scores.
        """
        training = self.experts[name].training
        if training is None:
            raise UserError(f"Expert {name!r} has no training scores, so no threshold can be computed. Retrain it.")
        distances = self.router.leave_one_out_distances(name, training.features)
        return thresholds(training.scores, distances, deviations)

    def score(self, paths: Sequence[Path | str], expert: str | None = None) -> list[ScoredImage]:
        """Score images; see :meth:`stream`."""
        return list(self.stream(paths, expert))

    def predict(self, paths: Sequence[Path | str], expert: str | None = None) -> list[Prediction]:
        """Classify each image as normal, defective or of an unknown category.

        The prediction of an unreadable image contains the error; see :class:`~moleflow.detector.predictor.Predictor`.

        Args:
            paths: The images.
            expert: Name of the expert that scores all images instead of the routed one; no image is then classified as
                unknown. None: the routed expert of each image.
        """
        return list(Predictor(self).stream(paths, expert))

    def stream(self, paths: Sequence[Path | str], expert: str | None = None, chunk: int = 32) -> Iterator[ScoredImage]:
        """Score images one after another, in order, with bounded memory.

        Args:
            paths: The images.
            expert: Name of the expert that scores all images; None: the routed expert of each image.
            chunk: Number of images in memory at a time.

        Raises:
            UserError: If an image cannot be read, the detector has no expert, or ``expert`` is unknown.
        """
        if not self.experts:
            raise UserError("The model has no expert. Train it first.")
        if expert is not None and expert not in self.experts:
            names = list(self.experts)
            raise UserError(f"expert={expert} is unknown.{did_you_mean(expert, names)} Experts: {list_names(names)}.")
        for start in range(0, len(paths), chunk):
            yield from self._score([Path(path) for path in paths[start : start + chunk]], expert)

    def image_features(self, paths: Sequence[Path], chunk: int = 32) -> Tensor:
        """Return the image features (N, D) by which images are routed, on the CPU.

        Args:
            paths: At least one image.
            chunk: Number of images whose patch features are in memory at a time.

        Raises:
            UserError: If an image cannot be read.
        """
        parts = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
        return torch.cat([mean_features(self.extractor.features(part)) for part in parts])

    def _score(self, paths: list[Path], expert: str | None) -> list[ScoredImage]:
        features = self.extractor.features(paths)
        routing = self.router.route(mean_features(features))
        experts = routing.experts if expert is None else [expert] * len(paths)
        margins = routing.margins.tolist()
        scored: dict[int, ScoredImage] = {}
        for name in dict.fromkeys(experts):
            rows = [i for i, choice in enumerate(experts) if choice == name]
            distances = routing.distances[:, self.router.names.index(name)].tolist()
            patches = self.scorer.score_images([paths[i] for i in rows], name, features[rows])
            names = [name] * len(rows)
            scores, maps = self.scorer.image_scores(patches, names), self.scorer.anomaly_maps(patches, names)
            for i, score, anomaly_map in zip(rows, scores.tolist(), maps, strict=True):
                scored[i] = ScoredImage(paths[i], score, anomaly_map, name, margins[i], distances[i])
        return [scored[i] for i in range(len(paths))]


def mean_features(features: Tensor) -> Tensor:
    """Return the image features (N, D), the mean over each patch grid, on the CPU.

    Args:
        features: Patch features (N, h, w, D).
    """
    return torch.stack([grid.clone().flatten(0, 1).mean(0) for grid in features]).cpu()
