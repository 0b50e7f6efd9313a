"""Construction of a detector's components, with the overrides of single experts applied."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from moleflow.data.transforms import FlippedTransform, ImageTransform
from moleflow.detector.overrides import apply_overrides, override_keys
from moleflow.detector.registry import build_component
from moleflow.detector.types import Overrides
from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import DiskFeatureCache, FeatureCache, MemoryFeatureCache, NullFeatureCache
from moleflow.features.extractor import FeatureExtractor, feature_spec
from moleflow.models.base import PatchModel
from moleflow.scoring.postprocessor import ScorePostprocessor
from moleflow.utils.errors import UserError, check_choice, prefix_errors


def resolve_device(device: str | torch.device) -> torch.device:
    """Return a device after checking that torch can compute on it.

    Raises:
        UserError: If it cannot.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # absent hardware, and a torch build without support for it
        raise UserError(f"device={device} cannot be used: {str(error).splitlines()[0]}. Use device=cpu.") from error


class ComponentFactory:
    """Builds extractors and postprocessors from the model's settings and an expert's overrides.

    Extractors of equal image size and augmentation are shared.

    Args:
        settings: Settings of a :class:`~moleflow.detector.detector.MoLEFlow`.
        cache: Folder of the feature cache; ``memory`` keeps features in memory, None keeps nothing.
        num_workers: Processes that decode images.
        device: Device of the backbone.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        cache: Path | Literal["memory"] | None,
        num_workers: int,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.backbone: PatchBackbone = build_component("backbone", settings["backbone"])
        self.device = device
        self.num_workers = num_workers
        self.cache = cache
        self.batch_size = int(settings["features"]["batch_size"])
        dtype = check_choice("features.dtype", settings["features"]["dtype"], ("float32", "float16"))
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._extractors: dict[tuple[int, int, str | None], FeatureExtractor] = {}

    def extractor(self, overrides: Overrides, augmentation: str | None = None) -> FeatureExtractor:
        """Return the feature extractor of an expert with these overrides.

        Args:
            overrides: The expert's overrides.
            augmentation: Flip or rotation applied to each image; a name of :data:`.transforms.AUGMENTATIONS`' values.

        Raises:
            UserError: If the image size is invalid or does not suit the backbone.
        """
        transform: ImageTransform = self._build("transform", overrides)
        key = (transform.height, transform.width, augmentation)
        if key not in self._extractors:
            self._extractors[key] = FeatureExtractor(
                self.backbone,
                transform if augmentation is None else FlippedTransform(transform, augmentation),
                self._feature_cache(transform, augmentation),
                self.batch_size,
                self.device,
                self.num_workers,
            )
        return self._extractors[key]

    def postprocessor(self, overrides: Overrides) -> ScorePostprocessor:
        """Return the score postprocessor of an expert with these overrides.

        Raises:
            UserError: If a value is not allowed, or ``top_k`` exceeds the number of patches of an image.
        """
        postprocessor: ScorePostprocessor = self._build("scoring", overrides)
        transform: ImageTransform = self._build("transform", overrides)
        with prefix_errors("scoring", ("top_k",)):
            postprocessor.image_scores(torch.zeros(1, *self.backbone.grid(transform.height, transform.width)))
        return postprocessor

    def check(self, overrides: Overrides, key: str) -> None:
        """Check an expert's overrides before any training.

        Args:
            overrides: The expert's overrides.
            key: Config key of the overrides, for messages.

        Raises:
            UserError: If a value is not allowed.
        """
        with prefix_errors(key, list(override_keys(overrides))):
            self.postprocessor(overrides)
            if "model" in overrides:
                patch_model: PatchModel = self._build("model", {})
                patch_model.add_expert("probe", **overrides["model"])

    def _feature_cache(self, transform: ImageTransform, augmentation: str | None) -> FeatureCache:
        if self.cache is None:
            return NullFeatureCache(self.dtype)
        if self.cache == "memory":
            return MemoryFeatureCache(self.dtype)
        augmented = transform if augmentation is None else FlippedTransform(transform, augmentation)
        return DiskFeatureCache(
            Path(self.cache), feature_spec(self.backbone, augmented, self.batch_size, self.device), self.dtype
        )

    def _build(self, name: str, overrides: Overrides) -> Any:
        return build_component(name, apply_overrides(self.settings[name], overrides, name))
