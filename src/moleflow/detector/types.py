"""Data types of the detector: scored images, training scores, expert records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from moleflow.data.transforms import ImageTransform
from moleflow.features.extractor import FeatureExtractor
from moleflow.scoring.calibration import ScoreStandardizer
from moleflow.scoring.fusion import ScoreFusion, finest_grid
from moleflow.scoring.postprocessor import ScorePostprocessor

Overrides = Mapping[str, Any]
"""A partial configuration: the keys in which one expert differs from the model; see :mod:`.overrides`."""


@dataclass(frozen=True)
class ScoredImage:
    """Score and anomaly map of one image.

    Attributes:
        path: The image file; None for an image in memory.
        score: Image score; larger is more anomalous.
        anomaly_map: (H, W) float32 at the map size of the score postprocessor.
        expert: The expert that scored the image.
        margin: Router distance of the second nearest expert minus that of the nearest; infinite with one expert.
        distance: Router distance to ``expert``.
    """

    path: Path | None
    score: float
    anomaly_map: Tensor = field(repr=False)
    expert: str
    margin: float
    distance: float


class TrainingScores(NamedTuple):
    """Features and scores of an expert's training images; thresholds and routing are computed from them.

    Attributes:
        features: Image features (N, D) float32.
        scores: Image scores (N,) float32 of the trained expert.
        maxima: Largest value (N,) float32 of each image's anomaly map.
        groups: Index (N,) int64 of each image's group; None if every image is a group (``dataset.group=null``).
    """

    features: Tensor
    scores: Tensor
    maxima: Tensor
    groups: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by name, for a safetensors file."""
        return {key: value for key, value in self._asdict().items() if value is not None}

    def joined(self, further: "TrainingScores") -> "TrainingScores":
        """Return these and the scores of further training images, whose groups are other groups."""
        groups = None
        if self.groups is not None or further.groups is not None:
            first, second = (
                torch.arange(len(each.scores)) if each.groups is None else each.groups for each in (self, further)
            )
            groups = torch.cat((first, second + first.max() + 1))
        features, scores, maxima = (torch.cat(pair) for pair in zip(self[:3], further[:3], strict=True))
        return TrainingScores(features, scores, maxima, groups)


class NormalScores(NamedTuple):
    """Scores of normal images that an expert was not fitted to.

    Attributes:
        scores: Image scores (M,) float32.
        maxima: Largest value (M,) float32 of each image's anomaly map.
    """

    scores: Tensor
    maxima: Tensor


@dataclass
class ExpertRecord:
    """Everything that belongs to one expert, except its weights and its router statistics.

    Attributes:
        categories: The categories that the expert was trained on.
        extractors: Patch features at the expert's image sizes, by feature set, the first one first.
        postprocessor: Image scores and anomaly maps from patch scores.
        overrides: The keys in which the expert's configuration differs from the model's.
        training: Features and scores of its training images; None before calibration.
        normal: Scores from which thresholds are computed, if not from those of ``training``: of validation images, and
            of training images that were scored as new ones.
        fusion: Fusion of the patch scores of several feature sets; None before calibration or with one feature set.
        standardizer: Standardization of its scores; None if ``scoring.standardize`` is off.
    """

    categories: tuple[str, ...]
    extractors: Mapping[str, FeatureExtractor] = field(repr=False)
    postprocessor: ScorePostprocessor = field(repr=False)
    overrides: Overrides = field(default_factory=dict)
    training: TrainingScores | None = field(default=None, repr=False)
    normal: NormalScores | None = field(default=None, repr=False)
    fusion: ScoreFusion | None = field(default=None, repr=False)
    standardizer: ScoreStandardizer | None = None

    @property
    def extractor(self) -> FeatureExtractor:
        """Patch features of the first feature set."""
        return next(iter(self.extractors.values()))

    @property
    def transforms(self) -> dict[str, ImageTransform]:
        """Transforms of the images that the expert scores, by feature set."""
        return {name: cast(ImageTransform, extractor.transform) for name, extractor in self.extractors.items()}

    @property
    def transform(self) -> ImageTransform:
        """Transform of the first feature set."""
        return cast(ImageTransform, self.extractor.transform)

    @property
    def grids(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of the patch grids by feature set."""
        return {
            name: self.extractors[name].backbone.grid(transform.height, transform.width)
            for name, transform in self.transforms.items()
        }

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of the patch scores, after the fusion of several feature sets."""
        return finest_grid(list(self.grids.values()))

    def manifest_entry(self) -> dict[str, Any]:
        """Return the part of the record that the manifest of a model folder holds, ready for JSON."""
        entry: dict[str, Any] = {"categories": list(self.categories)}
        return entry | ({"overrides": dict(self.overrides)} if self.overrides else {})
