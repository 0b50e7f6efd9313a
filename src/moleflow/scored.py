"""What a model says of pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """What the model says of one picture.

    Attributes:
        path: The picture.
        score: Image score; larger is more anomalous.
        anomaly_map: (H, W) float32 at the scoring's map size.
        expert: The expert that scored it.
        margin: How much farther the second nearest expert was; infinite with one expert.
        distance: The router's distance to the expert.
    """

    path: Path
    score: float
    anomaly_map: Tensor
    expert: str
    margin: float
    distance: float


class SeenPictures(NamedTuple):
    """An expert's training pictures as the finished expert sees them.

    Attributes:
        features: Image features (N, D) float32.
        scores: Image scores (N,) float32.
    """

    features: Tensor
    scores: Tensor
