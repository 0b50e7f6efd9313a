"""Patch scores, image scores and anomaly maps of single experts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from moleflow.detector.types import ExpertRecord
from moleflow.features.extractor import FeatureExtractor
from moleflow.models.base import PatchModel
from moleflow.utils.errors import UserError, list_names

_MAX_MERGED = 8  # merged experts that are cached: each is as large as the base


class Scorer(Protocol):
    """Interface of the scoring part of a detector: of one model, or of an ensemble."""

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Height and width of an anomaly map in pixels."""

    def score_images(
        self, paths: Sequence[Path], expert: str, features: Tensor | None = None, training: bool = False
    ) -> Tensor:
        """Return the patch scores of images under one expert; see :meth:`ExpertScorer.score_images`."""

    def image_scores(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return one score per image, (N,) float32."""

    def anomaly_maps(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return one anomaly map per image, (N, H, W) float32."""

    def clear_merged_cache(self) -> None:
        """Drop the merged copies of experts."""


class ExpertScorer:
    """Scores images by expert, each at the expert's own image size and with its own postprocessing.

    Scores do not depend, to the last bit, on the other images that are scored in the same call: everything runs in
    batches of one fixed shape.

    Args:
        patch_model: The patch model.
        extractor: Patch features at the model's image size, by which images are routed.
        experts: The records of the experts; the owner adds to this mapping.
        batch_size: Images per forward pass.
        map_shape: Height and width of an anomaly map in pixels.
    """

    def __init__(
        self,
        patch_model: PatchModel,
        extractor: FeatureExtractor,
        experts: Mapping[str, ExpertRecord],
        batch_size: int,
        map_shape: tuple[int, ...],
    ) -> None:
        self.patch_model = patch_model
        self.extractor = extractor
        self.experts = experts
        self.batch_size = batch_size
        self.map_shape = map_shape
        self._merged: dict[str, PatchModel] = {}

    def score_images(
        self, paths: Sequence[Path], expert: str, features: Tensor | None = None, training: bool = False
    ) -> Tensor:
        """Return the patch scores of images under one expert, (N, h, w) float32; see :meth:`score_features`.

        Args:
            paths: The images.
            expert: Name of the expert.
            features: Patch features of the images at the model's image size, if they are at hand.
            training: Whether these are the expert's training images, all of them in order.
        """
        extractor = self.experts[expert].extractor
        if features is None or extractor is not self.extractor:
            features = extractor.features(paths)
        return self.score_features(features, expert, paths, training)

    @torch.inference_mode()
    def score_features(self, features: Tensor, expert: str, paths: Sequence[Path], training: bool = False) -> Tensor:
        """Return each patch's score under one expert, standardized if the expert has a standardizer.

        The raw score of a flow is the negative log-likelihood in nats.

        Args:
            features: Patch features (N, h, w, D) at the expert's image size.
            expert: Name of the expert.
            paths: The images, for messages.
            training: Whether these are the expert's training images, all of them in order: each is then scored as a
                new image, without its own patches in memory banks (see :meth:`PatchModel.patch_scores`).

        Returns:
            (N, h, w) float32 on the CPU.

        Raises:
            UserError: If a score is not finite.
        """
        model = self._merged_model(expert)
        batches = []
        for start in range(0, len(features), self.batch_size):
            part = features[start : start + self.batch_size].to(self.extractor.device)
            # Always a copy: kernels may round differently on memory of another alignment.
            padded = torch.cat((part, part[:1].expand(self.batch_size - len(part), *part.shape[1:])))
            image_ids = torch.arange(start, start + self.batch_size, device=part.device) if training else None
            batches.append(model.patch_scores(padded, expert, image_ids)[: len(part)].cpu())
        scores = torch.cat(batches) if batches else torch.empty(0, *features.shape[1:3])
        invalid = (~scores.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if invalid:
            if any(True for _ in self.patch_model.parameters()):
                remedy = "Its training diverged: lower optimizer.lr or model.coupling_layers and train again."
            else:
                remedy = (
                    "It is fitted in closed form, and its training images vary too little: they are copies of one "
                    "image, or images of one color. Check them with `moleflow check-data`, or use model=patchcore."
                )
            images = list_names([paths[i] for i in invalid])
            raise UserError(f"The scores of expert {expert!r} are not finite for {images}. {remedy}")
        standardizer = self.experts[expert].standardizer
        return scores if standardizer is None else standardizer.patches(scores)

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
        self._merged.clear()

    def _merged_model(self, expert: str) -> PatchModel:
        if expert not in self._merged:
            while len(self._merged) >= _MAX_MERGED:
                del self._merged[next(iter(self._merged))]
            self._merged[expert] = self.patch_model.merged(expert)
        return self._merged[expert]
