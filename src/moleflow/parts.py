"""Builds the parts of a model from plain settings, and nothing but those parts.

A saved model names its parts like a Hydra config does, by ``_target_``. Only the names below are accepted, so reading a
model that somebody sent runs no code of theirs.
"""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from moleflow.data.transforms import PictureTransform
from moleflow.errors import UserError, below, nearest
from moleflow.features import PatchBackbone
from moleflow.flow import ExpertFlow, MemoryFlow
from moleflow.losses import FlowLoss
from moleflow.rivals import OneFlow, PatchMemory, PatchMixture, PositionGaussian
from moleflow.routing import Router
from moleflow.scoring import Scoring
from moleflow.values import check_value

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


def build_part(key: str, settings: Mapping[str, Any]) -> Any:
    """Return the part that the settings describe.

    Args:
        key: The config key that the settings stand under, for messages.
        settings: ``_target_`` and the keyword arguments.

    Raises:
        UserError: If the target is not a part of a model, or does not take an argument or its value.
    """
    arguments = {str(name): value for name, value in settings.items()}
    target = arguments.pop("_target_", None)
    if target not in PARTS:
        raise UserError(f"{key}._target_={target} is not a part of a model. Known: {', '.join(PARTS)}.")
    kinds = _kinds(PARTS[target])
    for name, value in arguments.items():
        if name not in kinds:
            raise UserError(f"{key}.{name} is unknown.{nearest(name, kinds)} Known: {', '.join(kinds)}.")
        if kinds[name] is not str:  # one of a few texts: the part itself lists them
            check_value(f"{key}.{name}", value, kinds[name])
    with below(key, kinds):
        return PARTS[target](**arguments)


def _kinds(part: Any) -> dict[str, Any]:
    """Return the arguments that a part takes and their annotations, with those that it hands on to its base class."""
    known = signature(part, eval_str=True).parameters.values()
    own = {parameter.name: parameter.annotation for parameter in known if parameter.kind is not Parameter.VAR_KEYWORD}
    return own if len(own) == len(known) else own | _kinds(part.__base__)
