"""What each expert says of patch grids: patch scores, image scores, anomaly maps.

Nothing here knows which expert a picture belongs to; see :mod:`moleflow.model` for that.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from moleflow.calibration import ScoreScale
from moleflow.data.transforms import PictureTransform
from moleflow.errors import UserError
from moleflow.features import FeatureExtractor
from moleflow.flow import PatchModel
from moleflow.own_parts import OwnParts
from moleflow.parts import build_part
from moleflow.scoring import Scoring

_MERGED = 8  # merged experts kept at a time: each has the size of the base


def usable(device: str | torch.device) -> torch.device:
    """Return a device on which torch can compute here.

    Raises:
        UserError: If it cannot.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # as torch says it for what is not there, and not built in
        raise UserError(f"device={device} cannot be used: {str(error).splitlines()[0]}. Use cpu.") from error


class ExpertScores:
    """Scores by expert, each with the size, the scoring and the scale that are its own.

    Scores do not depend on what else is scored at the same time, bit for bit: everything runs in batches of one fixed
    shape.

    Args:
        settings: Those of :class:`~moleflow.model.MoLEFlow`.
        cache: As there.
        num_workers: As there.
        device: As there.

    Raises:
        UserError: If a setting is not allowed.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        cache: Path | Literal["memory"] | None,
        num_workers: int,
        device: str | torch.device,
    ) -> None:
        self.device = usable(device)
        self.score_batch = int(settings["score_batch"])
        self.parts = OwnParts(settings, cache, num_workers, self.device)
        self.flow: PatchModel = build_part("model", settings["model"]).to(self.device)
        self.extractor = self.parts.extractor({})
        self.scoring = self.parts.scoring({})
        if self.scoring.standardise and self.flow.base_moves:
            raise UserError("scoring.standardise needs experts that stay as they are. Set model.base=frozen.")
        self.scales: dict[str, ScoreScale] = {}
        self._own: dict[str, tuple[Scoring, FeatureExtractor]] = {}
        self._merged: dict[str, PatchModel] = {}

    def scoring_of(self, expert: str) -> Scoring:
        """Return how an expert's patch scores become image scores and maps."""
        return self._own[expert][0] if expert in self._own else self.scoring

    def extractor_of(self, expert: str) -> FeatureExtractor:
        """Return what makes the patch grids that an expert scores: the common extractor, or one of its own size."""
        return self._own[expert][1] if expert in self._own else self.extractor

    def grid_of(self, expert: str) -> tuple[int, int]:
        """Return rows and columns of the patches that an expert scores."""
        transform = cast(PictureTransform, self.extractor_of(expert).transform)
        return self.parts.backbone.grid(transform.height, transform.width)

    def patches_of(
        self, paths: Sequence[Path], expert: str, common: Tensor | None = None, training: bool = False
    ) -> Tensor:
        """Return the patch scores of pictures under one expert, (N, h, w); see :meth:`patch_scores`.

        Args:
            paths: The pictures.
            expert: Its name.
            common: Patch features of the pictures at the common size, if the caller has them.
            training: Whether they are the pictures that the expert has learned, all of them in their order.
        """
        extractor = self.extractor_of(expert)
        grids = extractor.features(paths) if common is None or extractor is not self.extractor else common
        return self.patch_scores(grids, expert, paths, training)

    @torch.inference_mode()
    def patch_scores(self, grids: Tensor, expert: str, paths: Sequence[Path], training: bool = False) -> Tensor:
        """Return each patch's score under one expert, (N, h, w) float32 on the CPU, on its scale if it has one.

        The flow's raw score is the negative log-likelihood.

        Args:
            grids: Patch features (N, h, w, D).
            expert: Its name.
            paths: Where the pictures lie, for messages.
            training: Whether these are the expert's training pictures, all of them in their order: each is then scored
                as if it were new to the expert (see :meth:`PatchModel.patch_scores`).

        Raises:
            UserError: If a score is not finite; the message names the expert and the pictures.
        """
        flow = self._merged_flow(expert)
        scores = []
        for start in range(0, len(grids), self.score_batch):
            part = grids[start : start + self.score_batch].to(self.device)
            # A copy in every case: kernels may round differently on memory that is aligned differently.
            padded = torch.cat((part, part[:1].expand(self.score_batch - len(part), *part.shape[1:])))
            pictures = torch.arange(start, start + self.score_batch, device=self.device) if training else None
            scores.append(flow.patch_scores(padded, expert, pictures)[: len(part)].cpu())
        joined = torch.cat(scores) if scores else torch.empty(0, *grids.shape[1:3])
        bad = (~joined.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise UserError(
                f"Expert {expert!r} gives scores that are not finite for {', '.join(str(paths[i]) for i in bad)}. "
                "Its training went astray: lower optimizer.lr or model.coupling_layers and train again."
            )
        return self.scales[expert].patches(joined) if expert in self.scales else joined

    def image_scores(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return one score a picture, (N,) float32.

        Args:
            patch_scores: What :meth:`patch_scores` returned, (h, w) a picture; experts may differ in their grids.
            experts: The expert that scored each picture.
        """
        scores = torch.empty(len(experts))
        for i, (grid, name) in enumerate(zip(patch_scores, experts, strict=True)):
            scores[i] = self.scoring_of(name).image_scores(grid[None])[0]
            if name in self.scales:
                scores[i] = self.scales[name].images(scores[i])
        return scores

    def anomaly_maps(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return one map a picture, (N, H, W) float32 at the scoring's map size.

        Args:
            patch_scores: As :meth:`image_scores`.
            experts: As :meth:`image_scores`.
        """
        maps = torch.empty(len(experts), *self.scoring.map_shape)
        for i, (grid, name) in enumerate(zip(patch_scores, experts, strict=True)):
            maps[i] = self.scoring_of(name).anomaly_maps(grid[None])[0]
        return maps

    def forget_merged(self) -> None:
        """Drop the merged experts; they are made again from the current weights when needed."""
        self._merged.clear()

    def _merged_flow(self, expert: str) -> PatchModel:
        if expert not in self._merged:
            while len(self._merged) >= _MERGED:
                del self._merged[next(iter(self._merged))]
            self._merged[expert] = self.flow.merged(expert)
        return self._merged[expert]
