"""Patch scores, image scores and anomaly maps of single experts."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from moleflow.data.image_io import ImageSource
from moleflow.detector.feature_set import FeatureSet
from moleflow.detector.types import ExpertRecord
from moleflow.features.extractor import FeatureExtractor


class Scorer(Protocol):
    """Interface of the scoring part of a detector: of one model, or of an ensemble."""

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Height and width of an anomaly map in pixels."""

    def score_images(
        self, images: Sequence[ImageSource], expert: str, features: Tensor | None = None, groups: Tensor | None = None
    ) -> Tensor:
        """Return the patch scores of images under one expert; see :meth:`ExpertScorer.score_images`."""

    def image_scores(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return one score per image, (N,) float32."""

    def anomaly_maps(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return one anomaly map per image, (N, H, W) float32."""

    def clear_merged_cache(self) -> None:
        """Drop the merged copies of experts."""


class ExpertScorer:
    """Scores images by expert, each at the expert's own image sizes and with its own postprocessing.

    Scores do not depend, to the last bit, on the other images that are scored in the same call: everything runs in
    batches of one fixed shape.

    Args:
        feature_sets: The feature sets by name, the first one first.
        extractor: Patch features by which images are routed.
        experts: The records of the experts; the owner adds to this mapping.
        map_shape: Height and width of an anomaly map in pixels.
    """

    def __init__(
        self,
        feature_sets: Mapping[str, FeatureSet],
        extractor: FeatureExtractor,
        experts: Mapping[str, ExpertRecord],
        map_shape: tuple[int, ...],
    ) -> None:
        self.feature_sets = feature_sets
        self.extractor = extractor
        self.experts = experts
        self.map_shape = map_shape

    def score_images(
        self, images: Sequence[ImageSource], expert: str, features: Tensor | None = None, groups: Tensor | None = None
    ) -> Tensor:
        """Return the patch scores of images under one expert, (N, h, w) float32; see :meth:`fuse`.

        Features of one feature set at a time are in memory, besides ``features``.

        Args:
            images: The images: files, or images in memory.
            expert: Name of the expert.
            features: Patch features of the images by which they are routed, if they are at hand.
            groups: Of training images of the expert, the index (N,) of each image's group; see
                :meth:`.feature_set.FeatureSet.patch_scores`.

        Raises:
            UserError: If a score is not finite.
        """
        scores = {}
        for name, extractor in self.experts[expert].extractors.items():
            own = extractor.features(images) if features is None or extractor is not self.extractor else features
            scores[name] = self.feature_sets[name].patch_scores(own, expert, images, groups)
        return self.fuse(scores, expert)

    @torch.inference_mode()
    def fuse(self, scores: Mapping[str, Tensor], expert: str) -> Tensor:
        """Return the patch scores of an expert, (N, h, w) float32, standardized if the expert has a standardizer.

        Args:
            scores: Patch scores (N, h_k, w_k) by feature set; those of a single one are not changed.
            expert: Name of the expert.
        """
        record = self.experts[expert]
        if record.fusion is None:
            (patches,) = scores.values()
        else:
            count = len(next(iter(scores.values())))
            parts = [record.fusion({name: own[i : i + 1] for name, own in scores.items()}) for i in range(count)]
            patches = torch.cat(parts) if parts else torch.empty(0, *record.fusion.grid_shape)
        return patches if record.standardizer is None else record.standardizer.patches(patches)

    def image_scores(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return one score per image, (N,) float32.

        Args:
            patch_scores: Patch scores (h, w) of each image; the grids of the experts may differ.
            experts: The expert that scored each image.
        """
        scores = torch.empty(len(experts))
        for i, (grid, name) in enumerate(zip(patch_scores, experts, strict=True)):
            record = self.experts[name]
            scores[i] = record.postprocessor.image_scores(grid[None])[0]
            if record.standardizer is not None:
                scores[i] = record.standardizer.images(scores[i])
        return scores

    def anomaly_maps(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return one anomaly map per image, (N, H, W) float32 with (H, W) = ``map_shape``.

        Args:
            patch_scores: Patch scores (h, w) of each image.
            experts: The expert that scored each image.
        """
        maps = torch.empty(len(experts), *self.map_shape)
        for i, (grid, name) in enumerate(zip(patch_scores, experts, strict=True)):
            maps[i] = self.experts[name].postprocessor.anomaly_maps(grid[None])[0]
        return maps

    def clear_merged_cache(self) -> None:
        """Drop the merged copies of experts; they are built again from the current weights on demand."""
        for feature_set in self.feature_sets.values():
            feature_set.clear_merged_cache()


def scores_of_normal_images(
    scorer: Scorer, expert: str, patch_scores: Sequence[Tensor] | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the image scores (N,) of normal images and the largest values (N,) of their anomaly maps.

    Args:
        scorer: The scorer.
        expert: Name of the expert.
        patch_scores: Patch scores of the N images.
    """
    experts = [expert] * len(patch_scores)
    # One map at a time: those of all training images may not fit into memory.
    maxima = [float(scorer.anomaly_maps(patch_scores[i : i + 1], experts[:1]).max()) for i in range(len(experts))]
    return scorer.image_scores(patch_scores, experts), torch.tensor(maxima)
