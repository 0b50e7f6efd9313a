"""Construction of components from plain settings, restricted to an allow-list of classes.

A saved model names its components by ``_target_``, as a Hydra config does. Only the classes listed here are accepted,
so loading a model folder from an unknown source runs no code from it.
"""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, cast

from moleflow.data.transforms import ImageTransform
from moleflow.features.backbone import PatchBackbone
from moleflow.models.base import PatchModel
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
from moleflow.utils.text import one_line

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

ROLES: dict[str, type] = {
    "transform": ImageTransform,
    "backbone": PatchBackbone,
    "model": PatchModel,
    "router": Router,
    "scoring": ScorePostprocessor,
    "loss": FlowLoss,
}
"""Base class of the component at each config key, which is the last part of a key such as ``feature_sets.a.model``."""

MAX_CHANNELS = 2**14
"""Largest number of channels of a patch, and of a rank: 18 times the largest of the configurations."""
MAX_SIDE = 4096
"""Largest side in pixels of an image after its transform."""
MAX_MAP_SIDE = 2048
"""Largest side in pixels of an anomaly map."""
MAX_BLOCKS = 256
"""Largest number of blocks: 16 times the largest of the configurations."""
MAX_KERNEL = 255
"""Largest side of a convolution kernel and of a pooling window."""
MAX_SEED = 2**63 - 1
"""Largest seed."""

LIMITS: dict[str, float] = {
    "transform.size": MAX_SIDE,
    "backbone.dim": MAX_CHANNELS,
    "backbone.seed": MAX_SEED,
    "model.dim": MAX_CHANNELS,
    "model.coupling_layers": MAX_BLOCKS,
    "model.dia_blocks": MAX_BLOCKS,
    "model.dia_hidden_ratio": 64,
    "model.lora_rank": MAX_CHANNELS,
    "model.spatial_context_kernel": MAX_KERNEL,
    "model.scale_context_kernel": MAX_KERNEL,
    "model.seed": MAX_SEED,
    "scoring.map_size": MAX_MAP_SIDE,
    "scoring.pool": MAX_KERNEL,
}
"""Largest values of the arguments that determine time and memory of a component, by role and argument."""


def build_component(key: str, settings: Mapping[str, Any]) -> Any:
    """Return the component that the settings describe.

    Args:
        key: Config key of the settings, for messages.
        settings: ``_target_`` and the keyword arguments.

    Raises:
        UserError: If the target is not in the allow-list, or an argument is unknown or of the wrong type or value.
    """
    target, arguments = check_component(key, settings)
    with prefix_errors(key, parameters(target)):
        return target(**arguments)


def check_component(key: str, settings: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the class and the arguments of a component after checking names, types and limits of the arguments.

    Args:
        key: Config key of the settings; its last part is the component's role.
        settings: ``_target_`` and the keyword arguments.

    Raises:
        UserError: If the target is not a class of this role, or an argument is unknown, of the wrong type or too large.
    """
    if not isinstance(settings, Mapping):
        raise UserError(f"{key}={one_line(str(settings), 60)} must map _target_ and arguments to values.")
    role = key.rpartition(".")[2]
    allowed = {name: each for name, each in COMPONENTS.items() if issubclass(cast(type, each), ROLES.get(role, object))}
    arguments = {str(name): value for name, value in settings.items()}
    target = arguments.pop("_target_", None)
    if not isinstance(target, str) or target not in allowed:
        raise UserError(f"{key}._target_={one_line(str(target), 60)} is not allowed. Allowed: {', '.join(allowed)}.")
    known = parameters(allowed[target])
    for name, value in arguments.items():
        if name not in known:
            raise UserError(
                f"{key}.{one_line(name, 60)} is unknown.{did_you_mean(name, known)} Allowed: {', '.join(known)}."
            )
        if known[name].annotation is not str or isinstance(value, Mapping | list):
            check_type(f"{key}.{name}", value, known[name].annotation)  # a wrong text is listed by the component
        limit = LIMITS.get(f"{role}.{name}")
        numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if limit is not None and any(number > limit for number in numbers if isinstance(number, int | float)):
            raise UserError(f"{key}.{name}={value} must be at most {limit:.15g}.")
    missing = [name for name, each in known.items() if each.default is Parameter.empty and name not in arguments]
    if missing:
        raise UserError(f"{key} lacks {', '.join(missing)}.")
    return allowed[target], arguments


def parameters(component: Any) -> dict[str, Parameter]:
    """Return the parameters of a component by name, including those passed on to its base class."""
    accepted = signature(component, eval_str=True).parameters
    named = {name: each for name, each in accepted.items() if each.kind is not Parameter.VAR_KEYWORD}
    return named if len(named) == len(accepted) else named | parameters(component.__base__)
