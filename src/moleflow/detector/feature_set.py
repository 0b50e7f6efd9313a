"""Feature set of a detector: a backbone, a transform, and the patch model that scores its features."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from moleflow.data.image_io import ImageSource
from moleflow.data.transforms import FlippedTransform, ImageTransform
from moleflow.detector.overrides import apply_overrides
from moleflow.detector.registry import build_component, check_component
from moleflow.detector.types import Overrides
from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import DiskFeatureCache, FeatureCache, MemoryFeatureCache, NullFeatureCache
from moleflow.features.extractor import FeatureExtractor, feature_spec
from moleflow.models.base import PatchModel
from moleflow.models.batches import Batches
from moleflow.utils.config import check_type
from moleflow.utils.errors import UserError, check_choice, check_range, list_names, prefix_errors

FIRST = "first"
"""Name of the feature set that the top-level keys ``backbone``, ``transform`` and ``model`` describe."""

FEATURE_SET_COMPONENTS = ("backbone", "transform", "model")
_FOLDS = 5  # of cross-validated scores
_FOLD_EXPERT = "cross-validation"  # name of the expert of a fold; it exists only while its fold is scored
_MAX_MERGED = 8  # merged experts that are cached: each is as large as the base


class FeatureSet:
    """Backbone, transform and patch model of one feature set; each expert of a detector scores in all of them.

    Extractors of equal image size and augmentation are shared.

    Args:
        name: Name of the feature set; :data:`FIRST` for the first one.
        settings: Settings of ``backbone``, ``transform`` and ``model``, each with its ``_target_``; and ``weight``, by
            default 1.
        features: ``batch_size`` and ``dtype`` of the features.
        cache: Folder of the feature cache; ``memory`` keeps features in memory, None keeps nothing.
        num_workers: Processes that decode images.
        device: Device of backbone and patch model.

    Attributes:
        prefix: Prefix of the feature set's config keys: empty, or ``feature_sets.<name>.``.
        weight: Weight of its patch scores in the fusion.
        backbone: The backbone.
        patch_model: The patch model, which has an expert of each of the detector's experts.
        batch_size: Images per forward pass.

    Raises:
        UserError: If a setting is not allowed, or a further feature set has a model that is trained.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        features: Mapping[str, Any],
        cache: Path | Literal["memory"] | None,
        num_workers: int,
        device: torch.device,
    ) -> None:
        self.name = name
        self.prefix = "" if self.is_first else f"feature_sets.{name}."
        self.settings = settings
        self.device = device
        self.num_workers = num_workers
        self.cache = cache
        self.batch_size = int(features["batch_size"])
        dtype = check_choice("features.dtype", features["dtype"], ("float32", "float16"))
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.weight = settings.get("weight", 1)
        check_type(f"{self.prefix}weight", self.weight, float)
        check_range(f"{self.prefix}weight", self.weight, 0, low_open=True, high_open=True)
        self.backbone: PatchBackbone = self._build("backbone", {})
        self.patch_model: PatchModel = self._build("model", {}).to(device)
        if not self.is_first and has_gradient_steps(settings["model"]):
            raise UserError(
                f"{self.prefix}model must be fitted in closed form (patchcore, mixture, padim, gaussian): only the "
                f"first feature set, whose keys are backbone, transform and model, can be trained by gradient descent."
            )
        self._extractors: dict[tuple[int, int, str | None], FeatureExtractor] = {}
        self._merged: dict[str, PatchModel] = {}

    # -- construction -------------------------------------------------------------------------------------------------

    @property
    def is_first(self) -> bool:
        """Whether this is the feature set of the top-level keys."""
        return self.name == FIRST

    def overrides(self, overrides: Overrides) -> Overrides:
        """Return the part of an expert's overrides that applies to this feature set, by component."""
        further: Mapping[str, Overrides] = overrides.get("feature_sets", {})
        return overrides if self.is_first else further.get(self.name, {})

    def replace_overrides(self, overrides: Overrides, own: Overrides) -> Overrides:
        """Return an expert's overrides with another part for this feature set.

        Args:
            overrides: The expert's overrides, of all feature sets.
            own: The new part, as :meth:`overrides` returns it.
        """
        if self.is_first:
            return own
        return {**overrides, "feature_sets": {**overrides.get("feature_sets", {}), self.name: own}}

    def add_expert(self, name: str, overrides: Overrides) -> None:
        """Create an expert of the patch model.

        Args:
            name: Name of the expert.
            overrides: The expert's overrides, of all feature sets.

        Raises:
            UserError: If the name exists, or an override is not allowed.
        """
        own = self.overrides(overrides)
        check_component(f"{self.prefix}model", apply_overrides(self.settings["model"], own, "model"))
        with self.prefixed_errors():
            self.patch_model.add_expert(name, **own.get("model", {}))

    @torch.no_grad()
    def fit(self, name: str, features: Iterable[Tensor], image_ids: Tensor) -> None:
        """Fit the closed-form parts of an expert of the patch model.

        Args:
            name: Name of the expert.
            features: Patch features of its training images in batches (B, h, w, D), iterated several times.
            image_ids: (N,) index of the training image, or of its group, that each entry of the concatenated batches
                shows; see :func:`~moleflow.data.groups.group_indices`.
        """
        self.patch_model.fit(name, Batches(lambda: (batch.to(self.device) for batch in features)), image_ids)

    @torch.no_grad()
    def update(self, name: str, source: str, features: Iterable[Tensor], image_ids: Tensor, former: int) -> None:
        """Fit a new expert of the patch model to the training images of an earlier one and to further images.

        Args:
            name: Name of the new expert.
            source: Name of the earlier expert.
            features: Patch features of the further images in batches (B, h, w, D), iterated several times.
            image_ids: (N,) index from 0 of the further image that each entry of the concatenated batches shows.
            former: Number of grids that the earlier expert was fitted to, images times augmentations.
        """
        batches = Batches(lambda: (batch.to(self.device) for batch in features))
        self.patch_model.update(name, source, batches, image_ids, former)

    def check_model(self, overrides: Overrides) -> None:
        """Check the overrides of the patch model.

        Args:
            overrides: The expert's overrides, of all feature sets.

        Raises:
            UserError: If one is not allowed.
        """
        if own := self.overrides(overrides).get("model"):
            check_component(f"{self.prefix}model", {**self.settings["model"], **own})
            probe: PatchModel = self._build("model", {})
            with self.prefixed_errors():
                probe.add_expert("probe", **own)

    def extractor(self, overrides: Overrides, augmentation: str | None = None) -> FeatureExtractor:
        """Return the feature extractor of an expert with these overrides.

        Args:
            overrides: The expert's overrides, of all feature sets.
            augmentation: Flip or rotation applied to each image; a name of :data:`.transforms.AUGMENTATIONS`' values.

        Raises:
            UserError: If the image size is invalid.
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

    def grid(self, overrides: Overrides) -> tuple[int, int]:
        """Return rows and columns of the patch grid of an expert with these overrides.

        Raises:
            UserError: If the image size is invalid or does not suit the backbone.
        """
        transform: ImageTransform = self._build("transform", overrides)
        with self.prefixed_errors():
            return self.backbone.grid(transform.height, transform.width)

    @contextmanager
    def prefixed_errors(self) -> Iterator[None]:
        """Give messages of ``UserError`` about a key of a component the prefix of the feature set.

        Raises:
            UserError: With the prefixed message, in place of the original error.
        """
        if not self.prefix:
            yield
            return
        keys = [f"{part}.{key}" for part in FEATURE_SET_COMPONENTS for key in self.settings[part]]
        with prefix_errors(self.prefix.rstrip("."), keys):
            yield

    # -- files --------------------------------------------------------------------------------------------------------

    def base_state(self) -> dict[str, Tensor]:
        """Return the tensors of the patch model that all experts share, with the prefix of the feature set."""
        return {f"{self.prefix}{key}": value for key, value in self.patch_model.base_state().items()}

    def load_base_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the shared tensors.

        Args:
            tensors: Those of all feature sets.
        """
        own = without_prefix(tensors, self.prefix)
        self.patch_model.load_base_state({k: v for k, v in own.items() if not k.startswith("feature_sets.")})

    def expert_state(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of an expert of the patch model, with the prefix of the feature set."""
        return {f"{self.prefix}model.{key}": value for key, value in self.patch_model.expert_state(name).items()}

    def load_expert_state(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Load the tensors of an expert.

        Args:
            name: Name of the expert.
            tensors: Those of all feature sets.
        """
        self.patch_model.load_expert_state(name, without_prefix(tensors, f"{self.prefix}model."))

    # -- scores -------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def patch_scores(
        self,
        features: Tensor | Iterable[Tensor],
        expert: str,
        images: Sequence[ImageSource],
        groups: Tensor | None = None,
    ) -> Tensor:
        """Return each patch's score under one expert.

        The score of a flow is the negative log-likelihood in nats.

        Args:
            features: Patch features (N, h, w, D) at the expert's image size, or batches of them of ``batch_size``
                images.
            expert: Name of the expert.
            images: The images, for messages.
            groups: Of training images of the expert, the index (N,) of each image's group, as in :meth:`fit`: each is
                then scored as a new image, without the patches of its group in memory banks (see
                :meth:`PatchModel.patch_scores`). None for all other images.

        Returns:
            (N, h, w) float32 on the CPU.

        Raises:
            UserError: If a score is not finite.
        """
        model = self._merged_model(expert)
        batches: list[Tensor] = []
        for batch in torch.split(features, self.batch_size) if isinstance(features, Tensor) else features:
            if not len(batch):
                return torch.empty(batch.shape[:3])
            start = len(batches) * self.batch_size
            part = batch.to(self.device)
            # Always a copy: kernels may round differently on memory of another alignment.
            padded = _padded(part, self.batch_size)
            image_ids = None
            if groups is not None:
                image_ids = _padded(groups[start : start + self.batch_size], self.batch_size).to(part.device)
            batches.append(model.patch_scores(padded, expert, image_ids)[: len(part)].cpu())
        scores = torch.cat(batches)
        invalid = (~scores.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if invalid:
            if any(True for _ in self.patch_model.parameters()):
                remedy = "Its training diverged: lower optimizer.lr or model.coupling_layers and train again."
            else:
                remedy = (
                    "It is fitted in closed form, and its training images vary too little: they are copies of one "
                    f"image, or images of one color. Check them with `moleflow check-data`, or use {self.prefix}model="
                    "patchcore."
                )
            where = f" in feature set {self.name!r}" if self.prefix else ""
            names = list_names([_name(images[i], i) for i in invalid])
            raise UserError(f"The scores of expert {expert!r}{where} are not finite for {names}. {remedy}")
        return scores

    @torch.no_grad()
    def cross_validated_scores(
        self, features: Iterable[Tensor], image_ids: Tensor, images: Sequence[ImageSource], overrides: Overrides
    ) -> Tensor:
        """Return the patch scores of training images, each under an expert that is fitted to the other folds.

        The folds are whole groups; there are 5, or as many as groups if those are fewer. Only for models that are
        fitted in closed form.

        Args:
            features: Patch features of the A N images in batches (B, h, w, D) of ``batch_size`` images at most, the N
                unaugmented images first; iterated several times.
            image_ids: (A N,) index of each image's group, at least two groups; as in :meth:`fit`.
            images: The N unaugmented images, for messages.
            overrides: The expert's overrides, of all feature sets.

        Returns:
            (N, h, w) float32 on the CPU.

        Raises:
            UserError: If a score is not finite.
        """
        groups = sorted(set(image_ids.tolist()))
        number = min(_FOLDS, len(groups))
        folds = torch.searchsorted(torch.tensor(groups), image_ids) % number
        unaugmented = torch.arange(len(folds)) < len(images)
        rows, scores = [], []
        for fold in range(number):
            fitted, scored = folds != fold, (folds == fold) & unaugmented
            self.add_expert(_FOLD_EXPERT, overrides)
            self.fit(_FOLD_EXPERT, Batches(partial(_select, features, fitted)), image_ids[fitted])
            rows.append(scored.nonzero().flatten())
            names = [images[i] for i in rows[-1].tolist()]
            scores.append(self.patch_scores(_select(features, scored), _FOLD_EXPERT, names))
            self.patch_model.remove_expert(_FOLD_EXPERT)
            self._merged.pop(_FOLD_EXPERT)
        return torch.cat(scores)[torch.cat(rows).argsort()]

    def clear_merged_cache(self) -> None:
        """Drop the merged copies of experts; they are built again from the current weights on demand."""
        self._merged.clear()

    def _merged_model(self, expert: str) -> PatchModel:
        if expert not in self._merged:
            while len(self._merged) >= _MAX_MERGED:
                del self._merged[next(iter(self._merged))]
            self._merged[expert] = self.patch_model.merged(expert)
        return self._merged[expert]

    def _build(self, name: str, overrides: Overrides) -> Any:
        settings = apply_overrides(self.settings[name], self.overrides(overrides), name)
        with self.prefixed_errors():
            return build_component(f"{self.prefix}{name}", settings)

    def _feature_cache(self, transform: ImageTransform, augmentation: str | None) -> FeatureCache:
        if self.cache is None:
            return NullFeatureCache(self.dtype)
        if self.cache == "memory":
            return MemoryFeatureCache(self.dtype)
        augmented = transform if augmentation is None else FlippedTransform(transform, augmentation)
        return DiskFeatureCache(
            Path(self.cache), feature_spec(self.backbone, augmented, self.batch_size, self.device), self.dtype
        )


def _select(batches: Iterable[Tensor], mask: Tensor) -> Iterator[Tensor]:
    """Yield the rows of batches that a mask over all rows selects, without empty batches.

    Args:
        batches: Tensors (B, ...), with N rows together.
        mask: (N,) whether a row is selected.
    """
    start = 0
    for batch in batches:
        rows = batch[mask[start : start + len(batch)].to(batch.device)]
        start += len(batch)
        if len(rows):
            yield rows


def _padded(rows: Tensor, size: int) -> Tensor:
    """Return a copy (size, ...) of rows (n, ...), n at most ``size``, that repeats the first one at the end."""
    return torch.cat((rows, rows[:1].expand(size - len(rows), *rows.shape[1:])))


def _name(image: ImageSource, index: int) -> str:
    return str(image) if isinstance(image, (str, Path)) else f"image {index} in memory"


def has_gradient_steps(settings: Mapping[str, Any]) -> bool:
    """Return whether a patch model with these settings is trained by gradient steps, not fitted in closed form."""
    model: PatchModel = build_component("model", settings)
    if any(True for _ in model.base_parameters()):
        return True
    model.add_expert("probe")
    return bool(model.trainable_parameters(["probe"]))


def check_feature_set_name(name: str, key: str = "feature_sets") -> None:
    """Check the name of a further feature set, which is a part of config keys and tensor names.

    Raises:
        UserError: If it has other characters than letters of ASCII, digits and underscores, or is reserved.
    """
    if name == FIRST or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise UserError(
            f"{key}.{name} is not a possible name. Use ASCII letters, digits and underscores, a letter first, and not "
            f"{FIRST!r}, the feature set of the top-level keys."
        )


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, by their names without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def image_region(transform: ImageTransform) -> str:
    """Return a description of the region of an image that a transform keeps, with the border that it adds."""
    if transform.mode in ("squash", "proportional"):
        return "the whole image"
    return f"{transform.mode} to {transform.width / transform.height:.3f}:1"
