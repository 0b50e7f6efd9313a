"""Base class of detectors, which are single models or ensembles."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moleflow.data.image_io import ImageSource
from moleflow.detector.calibration import Calibration
from moleflow.detector.inputs import image_file, iterate_images
from moleflow.detector.predictor import Prediction, Predictor
from moleflow.detector.scorer import Scorer
from moleflow.detector.types import ExpertRecord, NormalScores, ScoredImage, TrainingScores
from moleflow.features.extractor import FeatureExtractor
from moleflow.routing.router import Router
from moleflow.scoring.thresholds import (
    FALSE_ALARM_RATE,
    UNKNOWN_RATE,
    Threshold,
    Thresholds,
    pooled_thresholds,
    threshold_at_rate,
)
from moleflow.utils.errors import UserError, did_you_mean, list_names


class Detector(ABC):
    """Base class of objects that route images to experts, score them and classify them.

    Attributes:
        device: Device of the computations.
        extractor: Extractor of the patch features by which images are routed.
        router: Router, which selects the expert of an image.
        scorer: Scorer, which computes patch scores, image scores and anomaly maps under an expert.
        experts: Records of the experts by name, in the order in which they were added.
        calibrations: Calibrations by expert, of those that were calibrated after training.
    """

    device: torch.device
    extractor: FeatureExtractor
    router: Router
    scorer: Scorer
    experts: Mapping[str, ExpertRecord]
    calibrations: Mapping[str, Calibration]
    _distances: tuple[tuple[object, ...], dict[str, Threshold]] | None = None

    @property
    @abstractmethod
    def excludes_training_images(self) -> bool:
        """Whether the training scores of experts are those of new images."""

    @abstractmethod
    def parameter_counts(self) -> dict[str, Any]:
        """Return the numbers of values of ``base``, ``experts`` (by name) and ``backbone``.

        The backbone is counted although a model folder does not contain it.
        """

    def __repr__(self) -> str:
        """Return class, experts and device."""
        return f"{type(self).__name__}(experts={list(self.experts)}, device={str(self.device)!r})"

    def expert_of(self, category: str) -> str:
        """Return the name of the first expert that was trained on a category.

        Raises:
            UserError: If there is none.
        """
        return self.experts_of(category)[0]

    def experts_of(self, category: str) -> list[str]:
        """Return the names of the experts that were trained on a category: several if it has returned.

        Raises:
            UserError: If there is none.
        """
        names = [name for name, record in self.experts.items() if category in record.categories]
        if not names:
            raise UserError(f"No expert was trained on category={category!r}.")
        return names

    def thresholds(self, name: str, rate: float = FALSE_ALARM_RATE, unknown_rate: float = UNKNOWN_RATE) -> Thresholds:
        """Return the thresholds of an expert.

        Those of score and map are computed from its calibration if there is one, else from validation images and
        training images that were scored as new ones, else from images that the expert was fitted to; ``source`` of the
        result is ``calibration``, ``validation``, ``training`` or ``fitted``.

        The thresholds of score and map depend on the expert's own images only. The distance threshold is computed from
        the images of all experts, in units of each expert's median distance, and changes when an expert is added.

        Args:
            name: Name of the expert.
            rate: Share of normal images above the score threshold, and share of them whose map exceeds the pixel
                threshold.
            unknown_rate: Share of images of the expert's categories above the distance threshold.

        Raises:
            UserError: If the expert has no training scores, a stored score is not finite, or a rate is not allowed.
        """
        training, calibration = self.experts[name].training, self.calibrations.get(name)
        if training is None:
            raise UserError(f"Expert {name!r} has no training scores, so no threshold can be computed. Retrain it.")
        validation = self.experts[name].normal
        normal: TrainingScores | NormalScores | Calibration
        if calibration is not None:
            normal, source = calibration, "calibration"
        elif validation is not None:
            normal, source = validation, "validation"
        else:
            normal, source = training, "training" if self.excludes_training_images else "fitted"
        chosen = None if calibration is None else calibration.threshold  # by labeled defects
        scores = np.asarray(normal.scores)
        score = threshold_at_rate(scores, rate)
        return Thresholds(
            score=score if chosen is None else score.at(chosen),
            pixel=threshold_at_rate(np.asarray(normal.maxima), rate),
            distance=self._distance_thresholds(unknown_rate)[name],
            normal_scores=np.sort(scores).tolist(),
            rate=rate if chosen is None else None,
            source=source,
        )

    def _distance_thresholds(self, rate: float) -> dict[str, Threshold]:
        """Return the distance thresholds of all experts, computed once for the same experts and calibrations."""
        key = (self.router.version, rate, tuple(self.experts), dict(self.calibrations))
        if self._distances is None or self._distances[0] != key:
            self._distances = key, pooled_thresholds({name: self._new_distances(name) for name in self.experts}, rate)
        return self._distances[1]

    def _new_distances(self, name: str) -> NDArray[np.float64]:
        """Return the router distances (n,) of normal images of an expert as new ones; none without such images."""
        training, calibration = self.experts[name].training, self.calibrations.get(name)
        if calibration is not None and set(calibration.experts) == set(self.experts):
            return np.asarray(calibration.distances)
        if training is None:
            return np.empty(0)
        distances = self.router.leave_one_out_distances(name, training.features, training.groups)
        return distances.numpy() if len(distances) > 1 else np.empty(0)

    def score(self, images: ImageSource | Iterable[ImageSource], expert: str | None = None) -> list[ScoredImage]:
        """Score images; see :meth:`stream`."""
        return list(self.stream(images, expert))

    def predict(
        self, images: ImageSource | Iterable[ImageSource], expert: str | None = None, rate: float = FALSE_ALARM_RATE
    ) -> list[Prediction]:
        """Classify each image as normal, defective or of an unknown category.

        The prediction of an unreadable image contains the error; see :class:`~moleflow.detector.predictor.Predictor`.

        Args:
            images: One image or several: files, Pillow images, arrays or tensors; see
                :func:`~moleflow.data.image_io.rgb_image`. A folder stands for the images in it, at any depth.
            expert: Name of the expert that scores all images instead of the routed one; no image is then classified as
                unknown. None: the routed expert of each image.
            rate: Share of normal images that may be classified as defective.
        """
        return list(Predictor(self, rate).stream(images, expert))

    def stream(
        self, images: ImageSource | Iterable[ImageSource], expert: str | None = None, chunk: int = 32
    ) -> Iterator[ScoredImage]:
        """Score images one after another, in order, with bounded memory.

        Args:
            images: One image or several, also an iterator of frames; see :meth:`predict`.
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
        remaining = iterate_images(images)
        while part := list(islice(remaining, chunk)):
            yield from self._score(part, expert)

    def image_features(self, images: Sequence[ImageSource], chunk: int = 32) -> Tensor:
        """Return the image features (N, D) by which images are routed, on the CPU.

        Args:
            images: At least one image.
            chunk: Number of images whose patch features are in memory at a time.

        Raises:
            UserError: If an image cannot be read.
        """
        parts = [images[start : start + chunk] for start in range(0, len(images), chunk)]
        return torch.cat([mean_features(self.extractor.features(part)) for part in parts])

    def _score(self, images: list[ImageSource], expert: str | None) -> list[ScoredImage]:
        features = self.extractor.features(images)
        image_features = mean_features(features)
        for image, finite in zip(images, image_features.isfinite().all(1).tolist(), strict=True):
            if not finite:
                raise UserError(
                    f"The features of {image_file(image) or 'an image in memory'} are not finite. Check "
                    "transform.mean, transform.std and the weights of the backbone."
                )
        routing = self.router.route(image_features)
        experts = routing.experts if expert is None else [expert] * len(images)
        margins = routing.margins.tolist()
        scored: dict[int, ScoredImage] = {}
        for name in dict.fromkeys(experts):
            rows = [i for i, choice in enumerate(experts) if choice == name]
            distances = routing.distances[:, self.router.names.index(name)].tolist()
            patches = self.scorer.score_images([images[i] for i in rows], name, features[rows])
            names = [name] * len(rows)
            scores, maps = self.scorer.image_scores(patches, names), self.scorer.anomaly_maps(patches, names)
            for i, score, anomaly_map in zip(rows, scores.tolist(), maps, strict=True):
                if not (math.isfinite(score) and math.isfinite(distances[i])):
                    where = image_file(images[i]) or f"image {i} in memory"
                    raise UserError(
                        f"{where} has score={score:g} and distance={distances[i]:g} under expert {name!r}; both must "
                        "be finite. The statistics of the expert are damaged: copy the model folder again, or retrain."
                    )
                scored[i] = ScoredImage(image_file(images[i]), score, anomaly_map, name, margins[i], distances[i])
        return [scored[i] for i in range(len(images))]


def mean_features(features: Tensor) -> Tensor:
    """Return the image features (N, D), the mean over each patch grid, on the CPU.

    Args:
        features: Patch features (N, h, w, D).
    """
    return torch.stack([grid.clone().flatten(0, 1).mean(0) for grid in features]).cpu()
