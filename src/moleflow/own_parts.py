"""The parts of a model that an expert may have of its own: how its pictures are read, and how its patches score."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch

from moleflow.data.transforms import PictureTransform
from moleflow.data.turns import TurnedTransform
from moleflow.errors import below, choice
from moleflow.features import (
    FeatureCache,
    FeatureExtractor,
    FeatureStore,
    MemoryStore,
    NoStore,
    PatchBackbone,
    feature_spec,
)
from moleflow.flow import PatchModel
from moleflow.own_settings import Own, dotted, merged
from moleflow.parts import build_part
from moleflow.scoring import Scoring


class OwnParts:
    """Builds an expert's parts from the model's settings with its own laid over them; equal sizes share an extractor.

    Args:
        settings: Those of :class:`~moleflow.model.MoLEFlow`.
        cache: As there.
        num_workers: As there.
        device: As there.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        cache: Path | Literal["memory"] | None,
        num_workers: int,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.backbone: PatchBackbone = build_part("backbone", settings["backbone"])
        self.device = device
        self.num_workers = num_workers
        self.cache = cache
        self.dtype = getattr(torch, choice("features.dtype", settings["feature_dtype"], ("float32", "float16")))
        self._extractors: dict[tuple[int, int, str | None], FeatureExtractor] = {}

    def extractor(self, own: Own, turn: str | None = None) -> FeatureExtractor:
        """Return what makes the patch grids of an expert with these settings.

        Args:
            own: Its own settings.
            turn: How the pictures are turned first; see :data:`moleflow.data.turns.AUGMENTATIONS`.

        Raises:
            UserError: If the size is not one, or does not suit the backbone.
        """
        placed: PictureTransform = self._build("transform", own)
        key = (placed.height, placed.width, turn)
        if key not in self._extractors:
            batch = int(self.settings["score_batch"])
            transform = placed if turn is None else TurnedTransform(placed, turn)
            spec = feature_spec(self.backbone, transform, batch, self.device)
            store: FeatureStore
            if isinstance(self.cache, Path):
                store = FeatureCache(self.cache, spec, self.dtype)
            else:
                store = NoStore(self.dtype) if self.cache is None else MemoryStore(self.dtype)
            self._extractors[key] = FeatureExtractor(
                self.backbone, transform, store, batch, self.device, self.num_workers
            )
        return self._extractors[key]

    def scoring(self, own: Own) -> Scoring:
        """Return how the patch scores of an expert with these settings become image scores and maps.

        Raises:
            UserError: If a value is not allowed, or more patches are asked for than a picture has.
        """
        scoring: Scoring = self._build("scoring", own)
        transform = cast(PictureTransform, self.extractor(own).transform)
        with below("scoring", ("top_k",)):
            scoring.image_scores(torch.zeros(1, *self.backbone.grid(transform.height, transform.width)))
        return scoring

    def check(self, own: Own, key: str) -> None:
        """Make sure that an expert can have these settings, before any training.

        Args:
            own: Its own settings.
            key: The config key that they stand under, for messages.

        Raises:
            UserError: If a value is not allowed.
        """
        with below(key, list(dotted(own))):
            self.scoring(own)
            if "model" in own:
                flow: PatchModel = self._build("model", {})
                flow.add_expert("probe", **own["model"])

    def _build(self, name: str, own: Own) -> Any:
        return build_part(name, merged(self.settings[name], own, name))
