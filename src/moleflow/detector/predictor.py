"""Classification of images as normal, defective or of an unknown category."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from moleflow.data.image_io import ImageError
from moleflow.detector.types import ExpertRecord, ScoredImage
from moleflow.scoring.thresholds import SCORE_DEVIATIONS, Thresholds
from moleflow.utils.errors import UserError

Verdict = Literal["normal", "defect", "unknown", "error"]


class ScoringModel(Protocol):
    """The part of a detector that predictions are made from."""

    @property
    def experts(self) -> Mapping[str, ExpertRecord]:
        """The records of the experts by name."""

    def score(self, paths: Sequence[Path | str], expert: str | None = None) -> list[ScoredImage]:
        """Return the scored images, in order."""

    def thresholds(self, name: str, deviations: float = SCORE_DEVIATIONS) -> Thresholds:
        """Return the thresholds of an expert."""


@dataclass(frozen=True)
class Prediction:
    """Verdict on one image.

    Attributes:
        path: The image file.
        verdict: ``normal``, ``defect``, ``unknown`` (of no trained category) or ``error``.
        score: Image score; None without one. Of an ``unknown`` image, the score under the nearest expert.
        threshold: Scores above it are defects.
        expert: The expert that scored the image.
        margin: Router distance of the second nearest expert minus that of the nearest.
        distance: Router distance to the expert, divided by the distance threshold: above 1 is ``unknown``.
        error: Reason why there is no score.
        anomaly_map: (H, W) float32, or None.
    """

    path: Path
    verdict: Verdict
    score: float | None = None
    threshold: float | None = None
    expert: str | None = None
    margin: float | None = None
    distance: float | None = None
    error: str = ""
    anomaly_map: Tensor | None = None

    def row(self) -> dict[str, str | float | None]:
        """Return everything except the anomaly map, ready for CSV or JSON."""
        finite = self.margin is not None and math.isfinite(self.margin)
        return {
            "path": str(self.path),
            "verdict": self.verdict,
            "score": self.score,
            "threshold": self.threshold,
            "category": self.expert,
            "margin": self.margin if finite else None,
            "distance": self.distance,
            "error": self.error,
        }


class Predictor:
    """Classifies images by thresholds that are computed from the training images.

    Args:
        model: A trained detector.
        deviations: Standard deviations between the mean training score and the score threshold.

    Raises:
        UserError: If ``deviations`` is not a finite number above 0, or an expert has no training scores.
    """

    def __init__(self, model: ScoringModel, deviations: float = SCORE_DEVIATIONS) -> None:
        if not 0 < deviations < math.inf:
            raise UserError(f"deviations={deviations} must be a finite number above 0.")
        self.model = model
        self.thresholds = {name: model.thresholds(name, deviations) for name in model.experts}

    def stream(self, paths: Sequence[Path | str], expert: str | None = None, chunk: int = 32) -> Iterator[Prediction]:
        """Classify images one after another, in order; an unreadable one becomes a prediction with its error.

        Args:
            paths: The images.
            expert: Score all images with this expert; then none is of an unknown category.
            chunk: Images that are held in memory at a time.

        Raises:
            UserError: If ``expert`` is unknown.
        """
        if expert is not None:
            self.model.score([], expert)  # raises for an unknown expert before any image is read
        for start in range(0, len(paths), chunk):
            part = [Path(path) for path in paths[start : start + chunk]]
            try:
                results: list[ScoredImage | UserError] = list(self.model.score(part, expert))
            except UserError:  # of one image; scores do not depend on the rest of the batch
                results = [self._score_alone(path, expert) for path in part]
            for path, result in zip(part, results, strict=True):
                if isinstance(result, ImageError):  # its own message gives advice for data sets
                    yield Prediction(path, "error", error=f"{path} {result.fault}.")
                elif isinstance(result, UserError):
                    yield Prediction(path, "error", error=str(result))
                else:
                    yield self._classify(result, routed=expert is None)

    def _score_alone(self, path: Path, expert: str | None) -> ScoredImage | UserError:
        try:
            return self.model.score([path], expert)[0]
        except UserError as error:
            return error

    def _classify(self, scored: ScoredImage, routed: bool) -> Prediction:
        threshold = self.thresholds[scored.expert]
        verdict: Verdict = "defect" if scored.score > threshold.score else "normal"
        if routed and scored.distance > threshold.distance:
            verdict = "unknown"
        return Prediction(
            scored.path,
            verdict,
            scored.score,
            threshold.score,
            scored.expert,
            scored.margin,
            scored.distance / threshold.distance,
            anomaly_map=scored.anomaly_map,
        )
