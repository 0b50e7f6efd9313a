"""Builds the parts of a model from plain settings, and nothing but those parts.

A saved model names its parts like a Hydra config does, by ``_target_``. Only the names below are accepted, so reading a
model that somebody sent runs no code of theirs.
"""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from moleflow.data.transforms import PictureTransform
from moleflow.errors import UserError, nearest
from moleflow.features import PatchBackbone
from moleflow.flow import ExpertFlow, MemoryFlow
from moleflow.losses import FlowLoss
from moleflow.rivals import OneFlow, PatchMemory, PatchMixture, PositionGaussian
from moleflow.routing import Router
from moleflow.scoring import Scoring

PARTS: dict[str, Callable[..., Any]] = {
    "moleflow.data.PictureTransform": PictureTransform,
    "moleflow.features.PatchBackbone": PatchBackbone,
    "moleflow.flow.ExpertFlow": ExpertFlow,
    "moleflow.flow.MemoryFlow": MemoryFlow,
    "moleflow.losses.FlowLoss": FlowLoss,
    "moleflow.rivals.OneFlow": OneFlow,
    "moleflow.rivals.PatchMemory": PatchMemory,
    "moleflow.rivals.PatchMixture": PatchMixture,
    "moleflow.rivals.PositionGaussian": PositionGaussian,
    "moleflow.routing.Router": Router,
    "moleflow.scoring.Scoring": Scoring,
}


def build_part(key: str, settings: Mapping[str, Any], **extra: Any) -> Any:
    """Return the part that the settings describe.

    Args:
        key: The config key that the settings stand under, for messages.
        settings: ``_target_`` and the keyword arguments.
        extra: Further keyword arguments.

    Raises:
        UserError: If the target is not a part of a model, or does not take an argument.
    """
    arguments = {str(name): value for name, value in settings.items()}
    target = arguments.pop("_target_", None)
    if target not in PARTS:
        raise UserError(f"{key}._target_={target} is not a part of a model. Known: {', '.join(PARTS)}.")
    known = _arguments(PARTS[target])
    for name in arguments:
        if name not in known:
            raise UserError(f"{key}.{name} is unknown.{nearest(name, known)} Known: {', '.join(known)}.")
    return PARTS[target](**arguments, **extra)


def _arguments(part: Any) -> list[str]:
    """Return the arguments that a part takes, with those that it hands on to its base class."""
    known = signature(part).parameters
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        return list(known)
    own = [name for name, parameter in known.items() if parameter.kind is not Parameter.VAR_KEYWORD]
    return own + _arguments(part.__base__)
