"""The detector: feature extraction, routing, density estimation and scoring.

Free of Lightning and Hydra: training adds experts to a detector, and a notebook can load one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from moleflow.data.image_io import ImageSource
from moleflow.detector.base import Detector
from moleflow.detector.calibration import read_calibrations
from moleflow.detector.components import ComponentFactory, resolve_device
from moleflow.detector.feature_set import FEATURE_SET_COMPONENTS, FIRST, FeatureSet, without_prefix
from moleflow.detector.folders import model_folder
from moleflow.detector.registry import build_component
from moleflow.detector.schema import SPEC_KEYS, FolderRules, check_settings, settings_errors
from moleflow.detector.scorer import ExpertScorer, scores_of_normal_images
from moleflow.detector.store import ModelStore
from moleflow.detector.types import ExpertRecord, NormalScores, Overrides, TrainingScores
from moleflow.models.base import PatchModel
from moleflow.routing.router import Router
from moleflow.routing.statistics import FeatureStatistics
from moleflow.scoring.calibration import Moments, ScoreStandardizer
from moleflow.scoring.fusion import ScoreFusion
from moleflow.utils.errors import UserError, check_choice

COMPONENT_NAMES = (*FEATURE_SET_COMPONENTS, "router", "scoring")


class MoLEFlow(Detector):
    """Anomaly detector with one expert per category, chosen by a router at test time.

    An expert scores in each feature set; with several sets its patch scores are their fusion (:class:`.ScoreFusion`).

    Args:
        settings: Settings of the components ``transform``, ``backbone``, ``model``, ``router`` and ``scoring``, each
            with its ``_target_``; and ``features``, with ``batch_size`` (images per forward pass; 1 is fastest on a
            CPU) and ``dtype`` (``float32`` or ``float16``). Optional: ``feature_sets``, which maps the names of further
            feature sets to their ``backbone``, ``transform``, ``model`` and ``weight``; and ``features`` of
            ``router``, the name of the feature set by which images are routed, by default the first one.
        cache: Folder of the feature cache; ``memory`` keeps features for the life of the model, None keeps nothing.
        num_workers: Processes that decode images.
        device: Where the detector computes.

    Attributes:
        components: Builds extractors and postprocessors with an expert's overrides.
        feature_sets: The feature sets by name, the first one first.

    Raises:
        UserError: If a setting is missing or not allowed.

    Examples:
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
        check_settings(settings)
        self.settings = settings
        self.device = resolve_device(device)
        self.components = ComponentFactory(settings, cache, num_workers, self.device)
        self.feature_sets: dict[str, FeatureSet] = self.components.feature_sets
        router = dict(settings["router"])
        routed_by = router.pop("features", None)
        if routed_by is not None:
            check_choice("router.features", routed_by, [name for name in self.feature_sets if name != FIRST])
        self.router: Router = build_component("router", router)
        self.extractor = self.components.extractors({})[routed_by or FIRST]
        self.postprocessor = self.components.postprocessor({})
        if self.postprocessor.standardize and self.patch_model.updates_shared_weights:
            raise UserError(
                "scoring.standardize=true requires experts that later tasks do not change. Set model.base=frozen."
            )
        if len(self.feature_sets) > 1 and self.patch_model.updates_shared_weights:
            raise UserError("feature_sets requires experts that later tasks do not change. Set model.base=frozen.")
        self.experts = {}
        self.calibrations = {}
        self.scorer = ExpertScorer(self.feature_sets, self.extractor, self.experts, self.postprocessor.map_shape)

    @property
    def patch_model(self) -> PatchModel:
        """Patch model of the first feature set, the only one that may be trained by gradient descent."""
        return self.feature_sets[FIRST].patch_model

    @property
    def excludes_training_images(self) -> bool:
        """Whether training images are scored as if the expert lacked them: all patch models have memory banks."""
        return all(each.patch_model.excludes_training_images for each in self.feature_sets.values())

    def __repr__(self) -> str:
        """Return class, patch model, backbone, experts and device."""
        return (
            f"{type(self).__name__}(model={type(self.patch_model).__name__}, "
            f"backbone={self.settings['backbone']['name']!r}, experts={list(self.experts)}, "
            f"device={str(self.device)!r})"
        )

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
        extractors, postprocessor = self.components.extractors(overrides), self.components.postprocessor(overrides)
        for feature_set in self.feature_sets.values():
            feature_set.add_expert(name, overrides)
        self.experts[name] = ExpertRecord(tuple(categories), extractors, postprocessor, overrides)

    def remove_expert(self, name: str) -> None:
        """Remove an expert from all feature sets and from the router.

        Raises:
            KeyError: If it does not exist.
        """
        self.experts.pop(name)
        for feature_set in self.feature_sets.values():
            feature_set.patch_model.remove_expert(name)
            feature_set.clear_merged_cache()
        self.router.remove(name)

    @torch.no_grad()
    def fit_expert(self, name: str, features: Iterable[Tensor], image_ids: Tensor, image_features: Tensor) -> None:
        """Initialize a new expert in the first feature set, optionally from the nearest one, and fit it in closed form.

        Args:
            name: Name of the expert.
            features: Patch features of its training images in batches (B, h, w, D), iterated several times.
            image_ids: Index of the training image, or of its group, that each entry of the concatenated batches shows.
            image_features: Image features (N, D) of the training images, by which images are routed.
        """
        if self.router.names:
            nearest = self.router.route(image_features.mean(0, keepdim=True)).experts[0]
            self.patch_model.initialize_from(name, nearest)
        self.feature_sets[FIRST].fit(name, features, image_ids)

    def update_expert(
        self, name: str, source: str, feature_set: str, features: Iterable[Tensor], image_ids: Tensor, images: int
    ) -> None:
        """Fit a new expert in one feature set to the training images of an earlier expert and to further images.

        Args:
            name: Name of the new expert.
            source: Name of the earlier expert.
            feature_set: Name of the feature set.
            features: Patch features of the further images in batches (B, h, w, D), iterated several times.
            image_ids: (A N,) index from 0 of the further image, or of its group, that each entry of the concatenated
                batches shows.
            images: Number N of further images, without their A - 1 augmentations.
        """
        earlier = self.experts[source].training
        assert earlier is not None
        former = len(earlier.scores) * len(image_ids) // images
        self.feature_sets[feature_set].update(name, source, features, image_ids, former)

    def register_with_router(self, name: str, image_features: Tensor, source: str | None = None) -> None:
        """Add an expert to the router.

        Args:
            name: Name of the expert.
            image_features: Image features (N, D) of its training images.
            source: Name of the earlier expert that this one continues, whose training images are added; None for none.
        """
        features = image_features.cpu()
        if source is not None:
            earlier = self.experts[source].training
            assert earlier is not None
            features = torch.cat((earlier.features.cpu(), features))
        self.router.add(name, FeatureStatistics.from_features(features))

    def calibrate(
        self,
        name: str,
        patch_scores: Mapping[str, Tensor],
        image_features: Tensor,
        groups: Tensor | None = None,
        cross_validated: Mapping[str, Tensor] | None = None,
        validation: Sequence[ImageSource] = (),
        source: str | None = None,
    ) -> None:
        """Store the expert's training scores; fusion, standardization and thresholds are computed from them.

        Thresholds are computed from images that were scored as new ones, if there are any: ``cross_validated`` and
        ``validation`` images, and training images if all patch models exclude them from the memory bank. Scores, fusion
        and standardization of an earlier expert that this one continues remain: its images do not exist any more.

        Args:
            name: Name of the trained expert.
            patch_scores: Patch scores (N, h, w) of its training images by feature set, each image scored without
                those of its group, from :meth:`.feature_set.FeatureSet.patch_scores` with ``groups``.
            image_features: Image features (N, D) of the same images.
            groups: Index (N,) of each image's group; None if every image is a group.
            cross_validated: Scores as in ``patch_scores``, but in feature sets whose patch models cannot exclude
                training images those of :meth:`.feature_set.FeatureSet.cross_validated_scores`; None if there are no
                such sets, or one is trained by gradient steps.
            validation: Normal images of the expert's categories that are no training images.
            source: Name of the earlier expert that this one continues; None: it is a new one.

        Raises:
            UserError: If a score is not finite.
        """
        record = self.experts[name]
        earlier = None if source is None else self.experts[source]
        if earlier is not None:
            record.fusion = earlier.fusion
        elif len(self.feature_sets) > 1:
            record.fusion = self._fusion(record, {each: Moments.of(patch_scores[each]) for each in self.feature_sets})
        patches = self.scorer.fuse(patch_scores, name)
        if self.postprocessor.standardize:
            record.standardizer = (
                ScoreStandardizer.from_training(patches, record.postprocessor)
                if earlier is None
                else earlier.standardizer
            )
            assert record.standardizer is not None
            patches = record.standardizer.patches(patches)
        record.training = TrainingScores(image_features, *scores_of_normal_images(self.scorer, name, patches), groups)
        parts = []
        if cross_validated is not None:
            parts.append(scores_of_normal_images(self.scorer, name, self.scorer.fuse(cross_validated, name)))
        elif self.excludes_training_images:
            parts.append((record.training.scores, record.training.maxima))
        if validation:
            patches = self.scorer.score_images(validation, name)
            parts.append(scores_of_normal_images(self.scorer, name, patches))
        if earlier is not None:
            assert earlier.training is not None
            if earlier.normal is not None:
                parts.insert(0, (earlier.normal.scores, earlier.normal.maxima))
            elif self.excludes_training_images:
                parts.insert(0, (earlier.training.scores, earlier.training.maxima))
            record.training = earlier.training.joined(record.training)
        if parts and (
            validation or cross_validated is not None or (earlier is not None and earlier.normal is not None)
        ):
            record.normal = NormalScores(*map(torch.cat, zip(*parts, strict=True)))

    def parameter_counts(self) -> dict[str, Any]:
        """Return the number of values of ``base``, ``experts`` (by name) and ``backbone``; the latter is not stored.

        With several feature sets these are sums over the sets.
        """
        sets = self.feature_sets.values()
        return {
            "base": sum(each.patch_model.num_values() for each in sets),
            "experts": {name: sum(each.patch_model.num_values(name) for each in sets) for name in self.experts},
            "backbone": sum(p.numel() for each in sets for p in each.backbone.parameters()),
        }

    # -- files --------------------------------------------------------------------------------------------------------

    def expert_state(self, name: str) -> dict[str, Tensor]:
        """Return all tensors of a calibrated expert by name."""
        record = self.experts[name]
        assert record.training is not None
        states: dict[str, Mapping[str, Tensor]] = {"training": record.training.state()}
        if record.normal is not None:
            states["normal"] = {"values": torch.stack(tuple(record.normal), 1)}
        if record.fusion is not None:
            states["fusion"] = {each: moments.state() for each, moments in record.fusion.moments.items()}
        if record.standardizer is not None:
            states["standardizer"] = record.standardizer.state()
        tensors = {key: value for each in self.feature_sets.values() for key, value in each.expert_state(name).items()}
        return tensors | {f"{part}.{key}": value for part, state in states.items() for key, value in state.items()}

    def load_expert(self, name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Create an expert from its manifest entry and its tensors.

        Args:
            name: Name of the expert.
            entry: Return value of :meth:`.types.ExpertRecord.manifest_entry`.
            tensors: Return value of :meth:`expert_state`.
        """
        self.add_expert(name, entry["categories"], entry.get("overrides"))
        for each in self.feature_sets.values():
            each.load_expert_state(name, tensors)
        record = self.experts[name]
        training = without_prefix(tensors, "training.")
        # Format 1 has no maxima. Scores take their place: a map is then marked where it exceeds the score threshold.
        record.training = TrainingScores(**{"maxima": training["scores"], **training})
        if (values := tensors.get("normal.values")) is not None:
            record.normal = NormalScores(*values.T.contiguous())
        self.register_with_router(name, record.training.features)
        if state := without_prefix(tensors, "fusion."):
            moments = {each: Moments(*state[each].tolist()) for each in self.feature_sets}
            record.fusion = self._fusion(record, moments)
        if state := without_prefix(tensors, "standardizer."):
            record.standardizer = ScoreStandardizer.from_state(state)

    def save(self, folder: Path) -> None:
        """Write the model folder; :mod:`moleflow.detector.store` describes its files.

        Raises:
            UserError: If the disk is full or the folder is not writable.
        """
        ModelStore(folder).save(
            {**self.settings, **self._backbone_specs()},
            {key: value for each in self.feature_sets.values() for key, value in each.base_state().items()},
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
        self._restore(store, FolderRules(store, experts))

    def _restore(self, store: ModelStore, rules: FolderRules) -> None:
        stored, specs = store.manifest()["settings"], self._backbone_specs()
        for key, spec in specs.items():
            if stored.get(key) != spec:
                raise UserError(
                    f"{store.manifest_path}: settings.{key} belongs to other backbone weights than those that are "
                    f"loaded now ({json.dumps(spec)})."
                )
        entries = store.entries()
        for name, expert_rules in rules.experts.items():
            self.load_expert(name, entries[name], store.expert(name, expert_rules))
        base = store.base(rules.base)
        for each in self.feature_sets.values():
            each.load_base_state(base)
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
        store = ModelStore(path)
        rules = FolderRules(store)
        stored = store.manifest()["settings"]
        settings = {key: value for key, value in stored.items() if key not in SPEC_KEYS}
        with settings_errors(store.manifest_path):
            model = cls(settings, cache, num_workers, device)
            model._restore(store, rules)
        model.calibrations = read_calibrations(path, model.experts)
        return model

    def _fusion(self, record: ExpertRecord, moments: Mapping[str, Moments]) -> ScoreFusion:
        return ScoreFusion(moments, {name: each.weight for name, each in self.feature_sets.items()}, record.grids)

    def _backbone_specs(self) -> dict[str, Any]:
        """Return the entries of the stored settings that identify the weights of the backbones."""
        first, *further = self.feature_sets.values()
        specs: dict[str, Any] = {"backbone_spec": first.backbone.spec()}
        if further:
            specs["feature_set_specs"] = {each.name: each.backbone.spec() for each in further}
        return specs
