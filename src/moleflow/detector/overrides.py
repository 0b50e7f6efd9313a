"""Overrides per category: keys in which the expert of one category differs from the run.

``per_category`` is a partial configuration by category, ``{screw: {epochs: 120, loss: {tail_weight: 1.0}}}``, of the
keys that may differ between experts of one model: epochs, augmentation, loss, image score, input adapter, image size.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moleflow.data.samples import nfc
from moleflow.data.transforms import proportional_size
from moleflow.detector.registry import COMPONENTS
from moleflow.detector.types import Overrides
from moleflow.utils.config import flatten_config
from moleflow.utils.errors import UserError, did_you_mean, list_names

_SHARED_SCORING_KEYS = ("_target_", "map_size", "standardize")
"""Keys of ``scoring`` that all experts of a model share, so that maps have one size and scores one scale."""


def check_per_category(settings: Mapping[str, Any], categories: Sequence[str]) -> dict[str, Overrides]:
    """Return ``per_category`` of a resolved configuration after checking its keys.

    Args:
        settings: The configuration.
        categories: The categories of the run.

    Raises:
        UserError: If a category or a key is unknown.
    """
    per_category, known = settings["per_category"], overridable_keys(settings)
    if not isinstance(per_category, Mapping):
        raise UserError("per_category must map categories to overrides, such as +per_category.screw.epochs=120.")
    per_category = {nfc(str(category)): overrides for category, overrides in per_category.items()}
    for category, overrides in per_category.items():
        if category not in categories:
            raise UserError(
                f"per_category.{category} is not a category of this run.{did_you_mean(str(category), categories)} "
                f"Categories: {list_names(categories)}."
            )
        if not isinstance(overrides, Mapping):
            raise UserError(
                f"per_category.{category} must map keys to values, such as +per_category.{category}.epochs=120."
            )
        for key in override_keys(overrides):
            if key not in known:
                raise UserError(
                    f"per_category.{category}.{key} is unknown.{did_you_mean(key, known)} "
                    f"Allowed keys: {list_names(known)}."
                )
    return dict(per_category)


def overridable_keys(settings: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys that may differ between the experts of a run with these settings."""
    further = settings.get("feature_sets", {})
    return [
        "epochs",
        "augmentation",
        *(f"loss.{key}" for key in settings["loss"] if key != "_target_"),
        *(f"scoring.{key}" for key in settings["scoring"] if key not in _SHARED_SCORING_KEYS),
        *_feature_set_keys(settings),
        *(f"feature_sets.{name}.{key}" for name, each in further.items() for key in _feature_set_keys(each)),
    ]


def _feature_set_keys(settings: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys of a feature set with these settings that may differ between experts."""
    model = COMPONENTS.get(str(settings["model"].get("_target_")))
    return [*(f"model.{key}" for key in getattr(model, "overridable_keys", ())), "transform.size"]


def expert_overrides(per_category: Mapping[str, Overrides], categories: Sequence[str]) -> Overrides:
    """Return the overrides of the expert of some categories.

    Raises:
        UserError: If the categories have different overrides.
    """
    first, *others = categories
    for other in others:
        if per_category.get(other, {}) != per_category.get(first, {}):
            raise UserError(
                f"One expert is trained on {' and '.join(categories)}, but per_category.{first} and "
                f"per_category.{other} differ. Use scenario.experts=category, or equal overrides."
            )
    return per_category.get(first, {})


def with_proportional_size(overrides: Overrides, size: Any, aspect_ratio: float, step: tuple[int, int]) -> Overrides:
    """Return an expert's overrides with the image size that has the proportions of its images.

    Sizes of the form [height, width] are not changed.

    Args:
        overrides: The expert's overrides.
        size: ``transform.size`` of the model.
        aspect_ratio: Width divided by height of the expert's images.
        step: Height and width in pixels of which the sides are multiples.
    """
    side = overrides.get("transform", {}).get("size", size)
    if not isinstance(side, int) or side < 1:
        return overrides
    height, width = proportional_size(side, aspect_ratio, step)
    if height == width:
        return overrides
    return {**overrides, "transform": {**overrides.get("transform", {}), "size": [height, width]}}


def task_epochs(overrides: Sequence[Overrides], epochs: int) -> int:
    """Return the number of epochs of a task.

    Args:
        overrides: The overrides of the task's experts.
        epochs: Epochs of an expert without an override.

    Raises:
        UserError: If the experts differ in their epochs.
    """
    values = {override.get("epochs", epochs) for override in overrides}
    if len(values) > 1:
        raise UserError(
            f"per_category sets the epochs of one task's experts to {' and '.join(map(str, sorted(values)))}, but they "
            "are trained together. Use scenario=1-1, or equal epochs."
        )
    return int(values.pop())


def apply_overrides(settings: Mapping[str, Any], overrides: Overrides, name: str) -> dict[str, Any]:
    """Return the settings of a component with an expert's overrides applied.

    Args:
        settings: Settings of the component.
        overrides: The expert's overrides.
        name: Name of the component: ``loss``, ``model``, ``scoring`` or ``transform``.
    """
    return {**settings, **overrides.get(name, {})}


def override_keys(overrides: Overrides) -> Iterator[str]:
    """Return the dotted keys of overrides, such as ``transform.size``; an empty mapping has none."""
    return (key for key, value in flatten_config(overrides).items() if not isinstance(value, Mapping))
