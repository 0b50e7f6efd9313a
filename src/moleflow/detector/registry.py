"""Construction of components from plain settings, restricted to an allow-list of classes.

A saved model names its components by ``_target_``, as a Hydra config does. Only the classes listed here are accepted,
so loading a model folder from an unknown source runs no code from it.
"""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from moleflow.data.transforms import ImageTransform
from moleflow.features.backbone import PatchBackbone
from moleflow.models.closed_form.mixture import MixtureModel
from moleflow.models.closed_form.padim import PaDiM
from moleflow.models.closed_form.patchcore import PatchCore
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import FlowLoss
from moleflow.models.flow.memory_flow import MemoryBankFlow
from moleflow.models.flow.shared_flow import SharedFlow
from moleflow.routing.router import Router
from moleflow.scoring.postprocessor import ScorePostprocessor
from moleflow.utils.config import check_type
from moleflow.utils.errors import UserError, did_you_mean, prefix_errors

COMPONENTS: dict[str, Callable[..., Any]] = {
    f"{component.__module__}.{component.__qualname__}": component
    for component in (
        ImageTransform,
        PatchBackbone,
        ExpertFlow,
        MemoryBankFlow,
        SharedFlow,
        MixtureModel,
        PaDiM,
        PatchCore,
        FlowLoss,
        Router,
        ScorePostprocessor,
    )
}
"""The allowed classes by their ``_target_``."""


def build_component(key: str, settings: Mapping[str, Any]) -> Any:
    """Return the component that the settings describe.

    Args:
        key: Config key of the settings, for messages.
        settings: ``_target_`` and the keyword arguments.

    Raises:
        UserError: If the target is not in the allow-list, or an argument is unknown or of the wrong type or value.
    """
    arguments = {str(name): value for name, value in settings.items()}
    target = arguments.pop("_target_", None)
    if target not in COMPONENTS:
        raise UserError(f"{key}._target_={target} is not allowed. Allowed: {', '.join(COMPONENTS)}.")
    annotations = _annotations(COMPONENTS[target])
    for name, value in arguments.items():
        if name not in annotations:
            raise UserError(
                f"{key}.{name} is unknown.{did_you_mean(name, annotations)} Allowed: {', '.join(annotations)}."
            )
        if annotations[name] is not str:  # one of a few strings: checked and listed by the component itself
            check_type(f"{key}.{name}", value, annotations[name])
    with prefix_errors(key, annotations):
        return COMPONENTS[target](**arguments)


def _annotations(component: Any) -> dict[str, Any]:
    """Return the parameters of a component and their annotations, including those passed on to its base class."""
    parameters = signature(component, eval_str=True).parameters.values()
    named = {p.name: p.annotation for p in parameters if p.kind is not Parameter.VAR_KEYWORD}
    return named if len(named) == len(parameters) else named | _annotations(component.__base__)
