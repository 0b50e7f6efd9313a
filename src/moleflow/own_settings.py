"""Settings per category: where one category's expert differs from the run.

``per_category`` is a partial configuration by category, ``{screw: {epochs: 120, loss: {tail_weight: 1.0}}}``, of the
keys that can differ between experts of one model: epochs, augmentation, loss, image score, input adapter, size of the
pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moleflow.errors import UserError, nearest
from moleflow.parts import PARTS
from moleflow.values import flat

Own = Mapping[str, Any]
"""A partial configuration: what differs, and nothing else."""

_COMMON = ("_target_", "map_size", "standardise")
"""Of scoring: maps of one size and scores on one scale are the model's, not an expert's."""


def per_category(settings: Mapping[str, Any], categories: Sequence[str]) -> dict[str, Own]:
    """Return the setting ``per_category`` of a resolved configuration, checked.

    Args:
        settings: The configuration.
        categories: The categories of the run.

    Raises:
        UserError: If a category or a key is unknown; the message offers the nearest.
    """
    given, keys = settings["per_category"], own_keys(settings)
    if not isinstance(given, Mapping):
        raise UserError("per_category holds settings by category, such as +per_category.screw.epochs=120.")
    for category, own in given.items():
        if category not in categories:
            raise UserError(
                f"per_category.{category} is no category of this run.{nearest(str(category), categories)} "
                f"Known: {', '.join(categories)}."
            )
        if not isinstance(own, Mapping):
            raise UserError(f"per_category.{category} holds settings, such as +per_category.{category}.epochs=120.")
        for key in dotted(own):
            if key not in keys:
                raise UserError(
                    f"per_category.{category}.{key} is unknown.{nearest(key, keys)} Known: {', '.join(keys)}."
                )
    return dict(given)


def own_keys(settings: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys that may differ between the experts of a run of these settings."""
    part = PARTS.get(str(settings["model"].get("_target_")))
    return [
        "epochs",
        "augmentation",
        *(f"loss.{key}" for key in settings["loss"] if key != "_target_"),
        *(f"scoring.{key}" for key in settings["scoring"] if key not in _COMMON),
        *(f"model.{key}" for key in getattr(part, "own_keys", ())),
        "transform.size",
    ]


def of_expert(given: Mapping[str, Own], categories: Sequence[str]) -> Own:
    """Return what the settings of the expert of some categories are.

    Raises:
        UserError: If the categories differ in them.
    """
    first, *others = categories
    for other in others:
        if given.get(other, {}) != given.get(first, {}):
            raise UserError(
                f"One expert learns {' and '.join(categories)}, but per_category gives {first} and {other} different "
                "settings. Use scenario.experts=category, or the same settings for all of them."
            )
    return given.get(first, {})


def epochs_of(owns: Sequence[Own], epochs: int) -> int:
    """Return the epochs of a task.

    Args:
        owns: The own settings of the task's experts.
        epochs: Epochs of an expert that has none of its own.

    Raises:
        UserError: If the experts differ in them.
    """
    wanted = {own.get("epochs", epochs) for own in owns}
    if len(wanted) > 1:
        raise UserError(
            f"per_category gives the experts of one task {' and '.join(map(str, sorted(wanted)))} epochs, but they are "
            "trained together. Use scenario=1-1, or the same epochs for all of them."
        )
    return int(wanted.pop())


def merged(part: Mapping[str, Any], own: Own, name: str) -> dict[str, Any]:
    """Return the settings of a part with those of the expert laid over them.

    Args:
        part: Settings of the part.
        own: The expert's own settings.
        name: Name of the part: ``loss``, ``scoring`` or ``transform``.
    """
    return {**part, **own.get(name, {})}


def dotted(own: Own) -> Iterator[str]:
    """Return the keys of settings with dots for what lies deeper, such as ``transform.size``."""
    return (key for key, value in flat(own).items() if not isinstance(value, Mapping))  # an empty one says nothing
