"""Normal, defect or unknown: what a trained model says of any picture."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from moleflow.data.read import PictureError
from moleflow.errors import UserError
from moleflow.model import MoLEFlow
from moleflow.scored import Scored

Verdict = Literal["normal", "defect", "unknown", "error"]

SCORE_DEVIATIONS = 3.0
_DISTANCE_DEVIATIONS = 6.0
"""How far beyond the mean of the training pictures the limits lie, in their standard deviations.

Foreign categories are so far away that the distance's limit can be wide, and it has to be: a gross defect moves a
picture, too (``benchmarks/unknown.py``: on the generated products a limit of 3 called 56 % of the defects unknown, one
of 6 called 8 %; no held-out normal one was unknown then, and no foreign one known).
"""


@dataclass(frozen=True)
class Limits:
    """Where an expert's normal ends; learned from its training pictures alone.

    Attributes:
        usual: Mean image score of the training pictures.
        score: Image scores above are a defect.
        distance: Router distances above are of an unknown category.
    """

    usual: float
    score: float
    distance: float


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture.

    Attributes:
        path: The picture.
        verdict: ``normal``, ``defect``, ``unknown`` (like none of the learned categories) or ``error``.
        score: Image score; None without one. For an unknown picture, that of the least wrong expert.
        threshold: Scores above it are a defect.
        expert: The expert that scored it.
        margin: How much farther the second nearest expert was.
        distance: The router's distance to the expert, over its limit: above 1 is unknown.
        error: Why there is no score.
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
        """Return everything but the map, ready for CSV or JSON."""
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
    """Judges pictures by limits that the training pictures set.

    Args:
        model: A trained model.
        deviations: How far above the mean of the training scores a defect begins, in their standard deviations.

    Raises:
        UserError: If the model was saved before limits were kept, or ``deviations`` is no finite number above 0.
    """

    def __init__(self, model: MoLEFlow, deviations: float = SCORE_DEVIATIONS) -> None:
        if not 0 < deviations < math.inf:
            raise UserError(f"deviations={deviations} must be a finite number above 0.")
        missing = [name for name in model.flow.names if name not in model.seen]
        if missing:
            raise UserError(
                f"Experts {', '.join(missing)} hold no training scores, so nothing tells normal from defect. "
                "Train them again."
            )
        self.model = model
        self.limits = {name: limits(model, name, deviations) for name in model.flow.names}

    def stream(self, paths: Sequence[Path | str], expert: str | None = None, chunk: int = 32) -> Iterator[Prediction]:
        """Judge pictures one after another, in order; one that cannot be read is a prediction with its error.

        Args:
            paths: The pictures.
            expert: Score all with this expert; then no picture is unknown.
            chunk: Pictures held in memory at a time.
        """
        if expert is not None:
            self.model.flow.expert(expert)
        for start in range(0, len(paths), chunk):
            part = [Path(path) for path in paths[start : start + chunk]]
            try:
                scored: list[Scored | UserError] = list(self.model.score(part, expert))
            except UserError:  # one of them is at fault: scores do not depend on who else is in the batch
                scored = [self._alone(path, expert) for path in part]
            for path, result in zip(part, scored, strict=True):
                if isinstance(result, PictureError):  # whose own advice is for a data set
                    yield Prediction(path, "error", error=f"{path} {result.fault}.")
                elif isinstance(result, UserError):
                    yield Prediction(path, "error", error=str(result))
                else:
                    yield self._judged(result, chosen=expert is not None)

    def _alone(self, path: Path, expert: str | None) -> Scored | UserError:
        try:
            return self.model.score([path], expert)[0]
        except UserError as error:
            return error

    def _judged(self, scored: Scored, chosen: bool) -> Prediction:
        limit = self.limits[scored.expert]
        verdict: Verdict = "defect" if scored.score > limit.score else "normal"
        if scored.distance > limit.distance and not chosen:
            verdict = "unknown"
        return Prediction(
            scored.path, verdict, scored.score, limit.score, scored.expert, scored.margin,
            scored.distance / limit.distance, anomaly_map=scored.anomaly_map,
        )  # fmt: skip


def limits(model: MoLEFlow, name: str, deviations: float = SCORE_DEVIATIONS) -> Limits:
    """Return where an expert's normal ends.

    The score's limit is some standard deviations above the mean of the training scores. The distance's limit is six
    above that of the distances that the training pictures would have, had the expert not seen them: a picture that took
    part in mean and covariance looks nearer than a new one of its kind.

    Args:
        model: The model.
        name: The expert.
        deviations: How many for the score.
    """
    seen = model.seen[name]
    scores, distances = seen.scores.double(), model.router.held_out_distances(name, seen.features)
    if len(scores) < 2:  # one picture tells nothing about spread: nothing is unknown, nothing a defect
        return Limits(float(scores.mean()), math.inf, math.inf)
    return Limits(
        float(scores.mean()),
        float(scores.mean() + deviations * scores.std()),
        float(distances.mean() + _DISTANCE_DEVIATIONS * distances.std()),
    )
