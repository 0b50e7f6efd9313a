"""Classification of images as normal, defective or of an unknown category."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from moleflow.data.image_io import ImageError, ImageSource
from moleflow.detector.inputs import image_file, iterate_images
from moleflow.detector.types import ExpertRecord, ScoredImage
from moleflow.scoring.drift import ScoreComparison, compare_scores
from moleflow.scoring.thresholds import FALSE_ALARM_RATE, UNKNOWN_RATE, Threshold, Thresholds
from moleflow.utils.errors import UserError, did_you_mean, list_names

Verdict = Literal["normal", "defect", "unknown", "no threshold", "error"]


class ScoringModel(Protocol):
    """The part of a detector that predictions are made from."""

    @property
    def experts(self) -> Mapping[str, ExpertRecord]:
        """The records of the experts by name."""

    def score(self, images: Iterable[ImageSource], expert: str | None = None) -> list[ScoredImage]:
        """Return the scored images, in order."""

    def thresholds(self, name: str, rate: float = FALSE_ALARM_RATE, unknown_rate: float = UNKNOWN_RATE) -> Thresholds:
        """Return the thresholds of an expert."""


@dataclass(frozen=True)
class Prediction:
    """Verdict on one image.

    Attributes:
        path: The image file; None for an image in memory.
        verdict: ``normal``, ``defect``, ``unknown`` (of no trained category), ``no threshold`` (the expert's normal
            images determine none) or ``error``.
        score: Image score; None without one. Of an ``unknown`` image, the score under the nearest expert.
        threshold: Scores above it are defects.
        normalized_score: Score from 0 to 1, 0.5 at the threshold; see :class:`~moleflow.scoring.thresholds.Threshold`.
        expert: The expert that scored the image.
        margin: Router distance of the second nearest expert minus that of the nearest.
        distance: Router distance to the expert, divided by the distance threshold: above 1 is ``unknown``.
        error: Reason why there is no score.
        anomaly_map: (H, W) float32, or None.
    """

    path: Path | None
    verdict: Verdict
    score: float | None = None
    threshold: float | None = None
    normalized_score: float | None = None
    expert: str | None = None
    margin: float | None = None
    distance: float | None = None
    error: str = ""
    anomaly_map: Tensor | None = field(default=None, repr=False)

    def row(self) -> dict[str, str | float | None]:
        """Return everything except the anomaly map, ready for CSV or JSON."""
        finite = self.margin is not None and math.isfinite(self.margin)
        return {
            "path": "" if self.path is None else str(self.path),
            "verdict": self.verdict,
            "score": self.score,
            "threshold": self.threshold,
            "normalized_score": self.normalized_score,
            "category": self.expert,
            "margin": self.margin if finite else None,
            "distance": self.distance,
            "error": self.error,
        }


class Predictor:
    """Classifies images by thresholds of a false-alarm rate, and compares their scores with those of normal images.

    Args:
        model: A trained detector.
        rate: Share of normal images that may be classified as defective.
        unknown_rate: Share of images of the trained categories that may be classified as unknown.
        score_thresholds: Score thresholds by expert that replace those of the rate.

    Attributes:
        thresholds: The thresholds by expert.

    Raises:
        UserError: If a rate is not allowed, an expert has no training scores, or a name is no expert.
    """

    def __init__(
        self,
        model: ScoringModel,
        rate: float = FALSE_ALARM_RATE,
        unknown_rate: float = UNKNOWN_RATE,
        score_thresholds: Mapping[str, float] | None = None,
    ) -> None:
        self.model = model
        self.thresholds = {name: model.thresholds(name, rate, unknown_rate) for name in model.experts}
        for name, value in (score_thresholds or {}).items():
            if name not in self.thresholds:
                names = list(self.thresholds)
                raise UserError(
                    f"threshold={name}={value:g}: there is no expert {name!r}.{did_you_mean(name, names)} Experts: "
                    f"{list_names(names)}."
                )
            if not math.isfinite(value):
                raise UserError(f"threshold={value} of expert {name!r} must be a finite number.")
            previous = self.thresholds[name]
            self.thresholds[name] = replace(previous, score=previous.score.at(value), rate=None, source="manual")
        self._scores: dict[str, list[float]] = defaultdict(list)

    def stream(
        self, images: ImageSource | Iterable[ImageSource], expert: str | None = None, chunk: int = 32
    ) -> Iterator[Prediction]:
        """Classify images one after another, in order; an unreadable one becomes a prediction with its error.

        Args:
            images: One image or several; see :meth:`~moleflow.detector.base.Detector.predict`.
            expert: Score all images with this expert; then none is of an unknown category.
            chunk: Images that are held in memory at a time.

        Raises:
            UserError: If ``expert`` is unknown.
        """
        if expert is not None:
            self.model.score([], expert)  # raises for an unknown expert before any image is read
        remaining = iterate_images(images)
        while part := list(islice(remaining, chunk)):
            try:
                results: list[ScoredImage | UserError] = list(self.model.score(part, expert))
            except UserError:  # of one image; scores do not depend on the rest of the batch
                results = [self._score_alone(image, expert) for image in part]
            for image, result in zip(part, results, strict=True):
                if isinstance(result, ImageError):  # its own message gives advice for data sets
                    yield Prediction(image_file(image), "error", error=f"{result.path} {result.fault}.")
                elif isinstance(result, UserError):
                    yield Prediction(image_file(image), "error", error=str(result))
                else:
                    yield self._classify(result, routed=expert is None)

    def comparisons(self) -> dict[str, ScoreComparison]:
        """Return, by expert, the comparison of the scores so far with those of normal images.

        Images of unknown categories are left out.
        """
        return {
            name: compare_scores(scores, thresholds.normal_scores, thresholds.score.value, thresholds.rate)
            for name, scores in self._scores.items()
            if (thresholds := self.thresholds[name]).score.value is not None
        }

    def normalized_map(self, prediction: Prediction) -> Tensor | None:
        """Return the anomaly map of a prediction with values from 0 to 1, 0.5 at the pixel threshold.

        Returns:
            (H, W) float32; None without a map or a pixel threshold.
        """
        if prediction.anomaly_map is None or prediction.expert is None:
            return None
        return normalize_map(prediction.anomaly_map, self.thresholds[prediction.expert].pixel)

    def _score_alone(self, image: ImageSource, expert: str | None) -> ScoredImage | UserError:
        try:
            return self.model.score([image], expert)[0]
        except UserError as error:
            return error

    def _classify(self, scored: ScoredImage, routed: bool) -> Prediction:
        thresholds = self.thresholds[scored.expert]
        limit, distance = thresholds.score.value, thresholds.distance.value
        verdict: Verdict = "no threshold"
        if routed and distance is not None and scored.distance > distance:
            verdict = "unknown"
        else:
            self._scores[scored.expert].append(scored.score)
            if limit is not None:
                verdict = "defect" if scored.score > limit else "normal"
        return Prediction(
            scored.path,
            verdict,
            scored.score,
            limit,
            thresholds.score.normalize(scored.score),
            scored.expert,
            scored.margin,
            None if distance is None else scored.distance / distance,
            anomaly_map=scored.anomaly_map,
        )


def normalize_map(anomaly_map: Tensor, threshold: Threshold) -> Tensor | None:
    """Return a map with values from 0 to 1, 0.5 at the threshold; None without a threshold.

    Args:
        anomaly_map: (H, W) anomaly map.
        threshold: Pixel threshold of the expert.
    """
    return None if threshold.value is None else torch.sigmoid((anomaly_map - threshold.value) / threshold.scale)


def comparison_notes(comparisons: Mapping[str, ScoreComparison], command: str) -> list[str]:
    """Return one sentence per expert whose scores differ from those of its normal images.

    Args:
        comparisons: Result of :meth:`Predictor.comparisons`.
        command: The command that calibrates the model.
    """
    notes = []
    for name, entry in comparisons.items():
        if entry.drifted:
            notes.append(
                f"{name}: only {entry.low} of {entry.count} images have a score at or below the median of the normal "
                "images. Even if half of these images are defective, normal images no longer resemble the training "
                f"images (light, camera, product). Calibrate with normal images of now: {command}"
            )
        elif entry.exceeds_rate:
            notes.append(
                f"{name}: {entry.above} of {entry.count} images ({entry.above / entry.count:.0%}) are above the "
                f"threshold, whose false-alarm rate is {entry.rate:.1%}. Either they are defective, or normal images "
                f"have changed; then calibrate: {command}"
            )
    return notes


def threshold_notes(thresholds: Mapping[str, Thresholds], command: str) -> list[str]:
    """Return one sentence about the experts whose thresholds were computed from images that they were fitted to.

    Args:
        thresholds: The thresholds by expert.
        command: The command that calibrates the model.
    """
    names = [name for name, entry in thresholds.items() if entry.source == "fitted"]
    if not names:
        return []
    return [
        f"{list_names(names)}: the thresholds are computed from images that the model was trained on. They are too "
        "low, and more normal images than the false-alarm rate are classified as defective. Calibrate with normal "
        f"images that were not trained on ({command}), or train with validation images (validation=0.2)."
    ]


def threshold_rows(thresholds: Mapping[str, Thresholds]) -> dict[str, dict[str, Any]]:
    """Return the thresholds by expert as JSON types."""
    return {
        name: {
            "score_threshold": entry.score.value,
            "pixel_threshold": entry.pixel.value,
            "distance_threshold": entry.distance.value,
            "false_alarm_rate": entry.rate,
            "normal_images": len(entry.normal_scores),
            "source": entry.source,
        }
        for name, entry in thresholds.items()
    }


def comparison_rows(comparisons: Mapping[str, ScoreComparison]) -> dict[str, dict[str, Any]]:
    """Return the comparisons by expert as JSON types."""
    return {
        name: {**vars(entry), "drifted": entry.drifted, "exceeds_rate": entry.exceeds_rate}
        for name, entry in comparisons.items()
    }
