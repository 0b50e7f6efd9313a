"""The detector: feature extraction, routing, density estimation and scoring.

Free of Lightning and Hydra: training adds experts to a detector, and a notebook can load one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from moleflow.detector.base import Detector
from moleflow.detector.components import ComponentFactory, resolve_device
from moleflow.detector.registry import build_component
from moleflow.detector.scorer import ExpertScorer
from moleflow.detector.store import ModelStore, model_folder
from moleflow.detector.types import ExpertRecord, Overrides, TrainingScores
from moleflow.models.base import PatchModel
from moleflow.routing.router import Router
from moleflow.routing.statistics import FeatureStatistics
from moleflow.scoring.calibration import ScoreStandardizer
from moleflow.utils.errors import UserError

COMPONENT_NAMES = ("transform", "backbone", "model", "router", "scoring")
_FIT_BATCH = 32  # images that are moved to the device at a time for a closed-form fit


class MoLEFlow(Detector):
    """Anomaly detector with one expert per category, chosen by a router at test time.

    Args:
        settings: Settings of the components ``transform``, ``backbone``, ``model``, ``router`` and ``scoring``, each
            with its ``_target_``; and ``features``, with ``batch_size`` (images per forward pass; 1 is fastest on a
            CPU) and ``dtype`` (``float32`` or ``float16``).
        cache: Folder of the feature cache; ``memory`` keeps features for the life of the model, None keeps nothing.
        num_workers: Processes that decode images.
        device: Where the detector computes.

    Attributes:
        components: Builds extractors and postprocessors with an expert's overrides.
        patch_model: Scores patches by expert.

    Raises:
        UserError: If a setting is missing or not allowed.

    Example:
        >>> from moleflow import MoLEFlow
        >>> model = MoLEFlow.load("runs/quickstart/default/seed0")  # doctest: +SKIP
        >>> [image.score for image in model.score(["part.png"])]  # doctest: +SKIP
    """

    scorer: ExpertScorer
    experts: dict[str, ExpertRecord]

    def __init__(
        self,
        settings: dict[str, Any],
        cache: Path | Literal["memory"] | None = None,
        num_workers: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        missing = [name for name in (*COMPONENT_NAMES, "features") if name not in settings]
        if missing:
            raise UserError(f"The model's settings lack {', '.join(missing)}.")
        self.settings = settings
        self.device = resolve_device(device)
        self.components = ComponentFactory(settings, cache, num_workers, self.device)
        self.patch_model: PatchModel = build_component("model", settings["model"]).to(self.device)
        self.router: Router = build_component("router", settings["router"])
        self.extractor = self.components.extractor({})
        self.postprocessor = self.components.postprocessor({})
        if self.postprocessor.standardize and self.patch_model.updates_shared_weights:
            raise UserError(
                "scoring.standardize=true requires experts that later tasks do not change. Set model.base=frozen."
            )
        self.experts = {}
        self.scorer = ExpertScorer(
            self.patch_model,
            self.extractor,
            self.experts,
            self.components.batch_size,
            self.postprocessor.map_shape,
        )
        self.backbone_spec = self.components.backbone.spec()

    # -- training -----------------------------------------------------------------------------------------------------

    def add_expert(self, name: str, categories: Sequence[str], overrides: Overrides | None = None) -> None:
        """Create an expert, to be trained, calibrated and registered with the router afterwards.

        Args:
            name: Name of the expert.
            categories: The categories that it is going to be trained on.
            overrides: The keys in which its configuration differs; see :mod:`moleflow.detector.overrides`.

        Raises:
            UserError: If the name exists, or an override is unknown or has a value that is not allowed.
        """
        overrides = dict(overrides or {})
        self.patch_model.add_expert(name, **overrides.get("model", {}))
        self.experts[name] = ExpertRecord(
            tuple(categories),
            self.components.extractor(overrides),
            self.components.postprocessor(overrides),
            overrides,
        )

    @torch.no_grad()
    def fit_expert(self, name: str, features: Tensor, image_features: Tensor) -> None:
        """Initialize a new expert, optionally from the nearest expert, and fit its closed-form parts.

        Args:
            name: Name of the expert.
            features: Patch features (A N, h, w, D) of its N training images: unaugmented, then under each of the
                A - 1 augmentations.
            image_features: Image features (N, D) of the unaugmented images at the model's image size.
        """
        if self.router.names:
            nearest = self.router.route(image_features.mean(0, keepdim=True)).experts[0]
            self.patch_model.initialize_from(name, nearest)
        image_ids = torch.arange(len(features)) % len(image_features)
        self.patch_model.fit(name, (part.to(self.device) for part in torch.split(features, _FIT_BATCH)), image_ids)

    def register_with_router(self, name: str, image_features: Tensor) -> None:
        """Add an expert to the router.

        Args:
            name: Name of the expert.
            image_features: Image features (N, D) of its training images.
        """
        self.router.add(name, FeatureStatistics.from_features(image_features.cpu()))

    def calibrate(self, name: str, features: Tensor, image_features: Tensor, paths: Sequence[Path]) -> None:
        """Store the expert's training scores; standardization and thresholds are computed from them.

        Args:
            name: Name of the trained expert.
            features: Patch features (N, h, w, D) of its training images.
            image_features: Image features (N, D) of the same images.
            paths: The image files, for messages.
        """
        record = self.experts[name]
        patches = self.scorer.score_features(features, name, paths, training=True)
        if self.postprocessor.standardize:
            record.standardizer = ScoreStandardizer.from_training(patches, record.postprocessor)
            patches = record.standardizer.patches(patches)
        scores = self.scorer.image_scores(patches, [name] * len(features))
        record.training = TrainingScores(image_features, scores)

    def parameter_counts(self) -> dict[str, Any]:
        """Return the number of values of ``base``, ``experts`` (by name) and ``backbone``; the latter is not stored."""
        model = self.patch_model
        return {
            "base": model.num_values(),
            "experts": {name: model.num_values(name) for name in model.names},
            "backbone": sum(p.numel() for p in self.extractor.backbone.parameters()),
        }

    # -- files --------------------------------------------------------------------------------------------------------

    def expert_state(self, name: str) -> dict[str, Tensor]:
        """Return all tensors of a calibrated expert by name."""
        record = self.experts[name]
        assert record.training is not None
        states: dict[str, Mapping[str, Tensor]] = {
            "model": self.patch_model.expert_state(name),
            "training": record.training._asdict(),
        }
        if record.standardizer is not None:
            states["standardizer"] = record.standardizer.state()
        return {f"{part}.{key}": value for part, state in states.items() for key, value in state.items()}

    def load_expert(self, name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Create an expert from its manifest entry and its tensors.

        Args:
            name: Name of the expert.
            entry: Return value of :meth:`.types.ExpertRecord.manifest_entry`.
            tensors: Return value of :meth:`expert_state`.
        """
        self.add_expert(name, entry["categories"], entry.get("overrides"))
        self.patch_model.load_expert_state(name, _with_prefix(tensors, "model."))
        record = self.experts[name]
        record.training = TrainingScores(**_with_prefix(tensors, "training."))
        self.register_with_router(name, record.training.features)
        if state := _with_prefix(tensors, "standardizer."):
            record.standardizer = ScoreStandardizer.from_state(state)

    def save(self, folder: Path) -> None:
        """Write the model folder; :mod:`moleflow.detector.store` describes its files.

        Raises:
            UserError: If the disk is full or the folder is not writable.
        """
        ModelStore(folder).save(
            {**self.settings, "backbone_spec": self.backbone_spec},
            self.patch_model.base_state(),
            {name: self.expert_state(name) for name in self.experts},
            {name: record.manifest_entry() for name, record in self.experts.items()},
        )

    def restore(self, folder: Path, experts: Sequence[str] | None = None) -> None:
        """Load base and experts of a model folder into this model, which has no expert yet.

        Args:
            folder: The model folder.
            experts: Names of the experts to load; None loads all.

        Raises:
            UserError: If a file is missing or damaged, or the folder was written with other backbone weights.
        """
        store = ModelStore(folder)
        if store.manifest()["settings"]["backbone_spec"] != self.backbone_spec:
            raise UserError(f"{folder} was trained with other backbone weights than those that are loaded now.")
        entries = store.entries()
        unknown = set(experts or ()) - entries.keys()
        if unknown:
            raise UserError(f"{store.manifest_path} lists no expert named {', '.join(sorted(unknown))}.")
        for name, entry in entries.items():
            if experts is None or name in experts:
                self.load_expert(name, entry, store.expert(name))
        self.patch_model.load_base_state(store.base())
        self.scorer.clear_merged_cache()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        num_workers: int = 0,
        cache: Path | Literal["memory"] | None = None,
    ) -> Self:
        """Return the model of a run folder or model folder.

        Args:
            folder: The folder.
            device: Where the model computes.
            num_workers: Processes that decode images.
            cache: Folder of the feature cache, ``memory`` or None.

        Raises:
            UserError: If there is no model, or one of its files is missing or damaged.
        """
        path = model_folder(Path(folder))
        settings = dict(ModelStore(path).manifest()["settings"])
        settings.pop("backbone_spec")
        model = cls(settings, cache, num_workers, device)
        model.restore(path)
        return model


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
