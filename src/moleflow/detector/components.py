"""Construction of a detector's components, with the overrides of single experts applied."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch

from moleflow.data.transforms import ImageTransform
from moleflow.detector.feature_set import FIRST, FeatureSet, check_feature_set_name, image_region
from moleflow.detector.overrides import apply_overrides, override_keys
from moleflow.detector.registry import build_component
from moleflow.detector.types import Overrides
from moleflow.features.extractor import FeatureExtractor
from moleflow.scoring.fusion import finest_grid
from moleflow.scoring.postprocessor import ScorePostprocessor
from moleflow.utils.errors import UserError, prefix_errors


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
    """Builds feature sets, extractors and postprocessors from the model's settings and an expert's overrides.

    Args:
        settings: Settings of a :class:`~moleflow.detector.detector.MoLEFlow`.
        cache: Folder of the feature cache; ``memory`` keeps features in memory, None keeps nothing.
        num_workers: Processes that decode images.
        device: Device of the backbones and patch models.

    Attributes:
        feature_sets: The feature sets by name, the first one first.

    Raises:
        UserError: If a setting is not allowed.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        cache: Path | Literal["memory"] | None,
        num_workers: int,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.feature_sets = {FIRST: FeatureSet(FIRST, settings, settings["features"], cache, num_workers, device)}
        for name, further in settings.get("feature_sets", {}).items():
            check_feature_set_name(name)
            self.feature_sets[name] = FeatureSet(name, further, settings["features"], cache, num_workers, device)

    def extractors(self, overrides: Overrides) -> dict[str, FeatureExtractor]:
        """Return the feature extractors of an expert with these overrides, by feature set.

        Raises:
            UserError: If an image size is invalid, or the feature sets use different regions of an image.
        """
        extractors = {name: each.extractor(overrides) for name, each in self.feature_sets.items()}
        regions = {name: image_region(cast(ImageTransform, each.transform)) for name, each in extractors.items()}
        for name, region in regions.items():
            if region != regions[FIRST]:
                raise UserError(
                    f"feature_sets.{name}.transform uses another region of an image ({region}) than the first feature "
                    f"set ({regions[FIRST]}). Sizes may differ, but not mode, nor the aspect ratio of crop and pad."
                )
        return extractors

    def postprocessor(self, overrides: Overrides) -> ScorePostprocessor:
        """Return the score postprocessor of an expert with these overrides.

        Raises:
            UserError: If a value is not allowed, ``top_k`` exceeds the number of patches of an image, or ``sigma`` is
                too large.
        """
        settings = apply_overrides(self.settings["scoring"], overrides, "scoring")
        postprocessor: ScorePostprocessor = build_component("scoring", settings)
        grid = finest_grid([each.grid(overrides) for each in self.feature_sets.values()])
        with prefix_errors("scoring", ("top_k", "sigma")):
            postprocessor.image_scores(torch.zeros(1, *grid))
            postprocessor.upsampling_matrices(grid)
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
            self.extractors(overrides)
            self.postprocessor(overrides)
            for each in self.feature_sets.values():
                each.check_model(overrides)
