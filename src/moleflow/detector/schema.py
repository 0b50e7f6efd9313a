"""Schema of a model folder: the allowed settings, and the tensors that follow from them.

The schema follows from the settings and the manifest alone, so that a folder is checked before anything is built.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from moleflow.detector.feature_set import FEATURE_SET_COMPONENTS, FIRST, check_feature_set_name
from moleflow.detector.manifest import FORMAT, refusal
from moleflow.detector.overrides import apply_overrides
from moleflow.detector.registry import build_component, check_component
from moleflow.detector.store import ModelStore
from moleflow.detector.types import Overrides
from moleflow.models.base import PatchModel
from moleflow.models.tensor_rule import TensorRule
from moleflow.utils.config import check_type
from moleflow.utils.errors import UserError, check_choice, check_range, list_names
from moleflow.utils.text import one_line

SPEC_KEYS = ("backbone_spec", "feature_set_specs")
"""Stored settings that identify the weights of the backbones."""
MAX_BATCH_SIZE = 1024
"""Largest number of images per forward pass."""
MAX_FEATURE_SETS = 16
"""Largest number of feature sets."""

_MOMENTS = TensorRule((2,), torch.float64, "moments")
_COMPONENTS = (*FEATURE_SET_COMPONENTS, "router", "scoring")
_KEYS = (*_COMPONENTS, "features", "feature_sets", *SPEC_KEYS)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the settings of a detector before anything is built.

    Args:
        settings: Settings of a :class:`~moleflow.detector.detector.MoLEFlow`, with or without ``SPEC_KEYS``.

    Raises:
        UserError: If a setting is missing, unknown, of the wrong type or too large.
    """
    missing = [name for name in (*_COMPONENTS, "features") if name not in settings]
    if missing:
        raise UserError(f"The model's settings lack {', '.join(missing)}.")
    for key in settings.keys() - set(_KEYS):
        raise UserError(f"{one_line(key, 60)} is no setting of a model. Allowed: {', '.join(_KEYS)}.")
    router = _mapping(settings, "router")
    sets = _mapping({"feature_sets": {}} | dict(settings), "feature_sets")
    if len(sets) > MAX_FEATURE_SETS:
        raise UserError(f"feature_sets has {len(sets)} entries and must have at most {MAX_FEATURE_SETS}.")
    check_component("router", {key: value for key, value in router.items() if key != "features"})
    check_component("scoring", _mapping(settings, "scoring"))
    _check_feature_set(settings, "")
    for name in sets:
        check_feature_set_name(name)
        _check_feature_set(_mapping(sets, name), f"feature_sets.{name}.")
    if router.get("features") is not None:
        check_choice("router.features", router["features"], sets)
    features = _mapping(settings, "features")
    for key in ("batch_size", "dtype"):
        if key not in features:
            raise UserError(f"features lacks {key}.")
    check_type("features.batch_size", features["batch_size"], int)
    check_range("features.batch_size", features["batch_size"], 1, MAX_BATCH_SIZE)
    check_choice("features.dtype", features["dtype"], ("float32", "float16"))


class ModelSchema:
    """Rules for all tensors of a model folder.

    The patch models are built on torch's device ``meta``, which has shapes but no memory.

    Args:
        settings: Settings of a :class:`~moleflow.detector.detector.MoLEFlow`.
        format_version: Format of the manifest.

    Raises:
        UserError: If a setting is not allowed.
    """

    def __init__(self, settings: Mapping[str, Any], format_version: int = FORMAT) -> None:
        check_settings(settings)
        self.settings = settings
        self.format_version = format_version
        self._sets = {FIRST: settings, **settings.get("feature_sets", {})}
        self._models: dict[str, PatchModel] = {}
        for name, each in self._sets.items():
            with torch.device("meta"), _ShapesOnly():
                self._models[name] = build_component(f"{_prefix(name)}model", each["model"])

    def add_expert(self, name: str, overrides: Overrides) -> dict[str, TensorRule]:
        """Add an expert, in the order of the manifest, and return the rules for its tensors.

        Args:
            name: Name of the expert.
            overrides: Its overrides.

        Raises:
            UserError: If an override is not allowed.
        """
        rules: dict[str, TensorRule] = {}
        for set_name, each in self._sets.items():
            own = overrides if set_name == FIRST else overrides.get("feature_sets", {}).get(set_name, {})
            prefix = _prefix(set_name)
            for part in ("model", "transform"):
                check_component(f"{prefix}{part}", apply_overrides(each[part], own, part))
            with torch.device("meta"), _ShapesOnly():
                self._models[set_name].add_expert(name, **own.get("model", {}))
            expert_rules = self._models[set_name].expert_rules(name)
            rules |= {f"{prefix}model.{key}": rule.with_prefix(prefix) for key, rule in expert_rules.items()}
        check_component("scoring", apply_overrides(self.settings["scoring"], overrides, "scoring"))
        routed_by = self.settings["router"].get("features") or FIRST
        rules["training.features"] = TensorRule(("N", self._sets[routed_by]["backbone"]["dim"]))
        rules["training.scores"] = TensorRule(("N",))
        if self.format_version > 1:
            rules["training.maxima"] = TensorRule(("N",))
            rules["training.groups"] = TensorRule(("N",), torch.int64, optional=True)
            rules["normal.values"] = TensorRule(("M", 2), optional=True)
        if len(self._sets) > 1:
            rules |= {f"fusion.{each}": _MOMENTS for each in self._sets}
        if self.settings["scoring"].get("standardize"):
            rules |= {f"standardizer.{part}": _MOMENTS for part in ("patch", "image")}
        return rules

    def base(self) -> dict[str, TensorRule]:
        """Return the rules for the shared tensors; all experts must have been added before."""
        models = self._models.items()
        return {f"{_prefix(name)}{key}": rule for name, model in models for key, rule in model.base_rules().items()}


class _ShapesOnly(TorchFunctionMode):
    """Leaves out random values and sorting, whose kernels for the device ``meta`` take a second to import."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        match getattr(func, "__name__", ""):
            case "uniform_" | "normal_":
                return args[0] if args else options["tensor"]  # of torch.nn.init
            case "randperm":
                return torch.empty(args[0], dtype=torch.int64)
            case "argsort":
                return torch.empty_like(args[0])
        return func(*args, **options)


class FolderRules:
    """Rules for the files of a model folder, whose headers have been compared with them.

    Args:
        store: The model folder.
        experts: Names of the experts that are going to be loaded, which determine the kind of the first one; None: all.

    Attributes:
        base: Rules for the shared tensors.
        experts: Rules for the tensors of each expert by name.

    Raises:
        UserError: If the manifest has a setting or an override that is not allowed, an expert is not listed, or a
            tensor is missing, surplus, or of the wrong type or shape.
    """

    def __init__(self, store: ModelStore, experts: Sequence[str] | None = None) -> None:
        manifest, entries = store.manifest(), store.entries()
        unknown = [name for name in experts or () if name not in entries]
        if unknown:
            raise UserError(f"{store.manifest_path} lists no expert named {list_names(unknown)}.")
        self.experts: dict[str, dict[str, TensorRule]] = {}
        with settings_errors(store.manifest_path):
            settings = manifest["settings"]
            _check_specs(settings, store.manifest_path)
            schema = ModelSchema(settings, manifest["format"])
            for name, entry in entries.items():
                if experts is None or name in experts:
                    self.experts[name] = schema.add_expert(name, entry.get("overrides", {}))
            self.base = schema.base()
        for name, rules in self.experts.items():
            store.check_header(store.expert_file(name), rules)
        store.check_header(store.base_file(), self.base)


@contextmanager
def settings_errors(path: Path) -> Iterator[None]:
    """Name the manifest in messages about its settings.

    Args:
        path: The manifest.

    Raises:
        UserError: With the path, in place of the original error.
    """
    try:
        yield
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(str(path)) else f"{path}: {message}") from error


def _check_feature_set(settings: Mapping[str, Any], prefix: str) -> None:
    allowed = (*FEATURE_SET_COMPONENTS, "weight")
    for key in settings if prefix else ():
        if key not in allowed:
            raise UserError(f"{prefix}{one_line(key, 60)} is unknown. Allowed: {', '.join(allowed)}.")
    for part in FEATURE_SET_COMPONENTS:
        if part not in settings:
            raise UserError(f"{prefix.rstrip('.')} lacks {part}.")
        check_component(f"{prefix}{part}", _mapping(settings, part))
    dims = [settings[part].get("dim") for part in ("backbone", "model")]
    if dims[0] != dims[1]:
        raise UserError(f"{prefix}model.dim={dims[1]} must be {prefix}backbone.dim={dims[0]}.")


def _check_specs(settings: Mapping[str, Any], path: Path) -> None:
    """Check that the stored settings identify the weights of all backbones."""
    specs = {"backbone_spec": settings.get("backbone_spec")}
    if "feature_sets" in settings:
        specs["feature_set_specs"] = settings.get("feature_set_specs")
    for key, spec in specs.items():
        if not isinstance(spec, Mapping):
            raise refusal(path, f"settings.{key}", spec, "a mapping that identifies the weights of the backbone")


def _mapping(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = settings.get(key)
    if not isinstance(value, Mapping):
        raise UserError(f"{key}={one_line(str(value), 60)} must map keys to values.")
    return value


def _prefix(name: str) -> str:
    return "" if name == FIRST else f"feature_sets.{name}."
