"""Identity of a run: the config keys that do not affect its results.

A run is identified by its configuration and by the content of its files, which ``data.json`` records: names and digests
of images and masks, and digests of the files of backbone weights. Where a run folder and these files are does not
matter.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from moleflow.utils.config import flatten_config
from moleflow.utils.io import existing_file, file_digest

DATASET_ROOTS = ("dataset.root", "dataset.parts.*.root")
"""Keys of the folders of data sets, which may move."""

WEIGHTS_FILES = ("backbone.weights", "feature_sets.*.backbone.weights")
"""Keys of the files of backbone weights, which may move; their content is compared."""

NON_IDENTITY_KEYS = (
    "resume", "logger", "callbacks", "features.cache_dir", "features.num_workers", "progress",
    "description", "reported", "expected", "objective", "scenario.parallel",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "deterministic")), *DATASET_ROOTS,
)  # fmt: skip
"""Keys that do not affect results and are ignored when configurations are compared; each includes the keys below it."""


def matches_any(key: str, prefixes: Sequence[str]) -> bool:
    """Return whether a dotted key equals one of the prefixes or lies below one.

    Args:
        key: The key.
        prefixes: Dotted keys; ``*`` stands for any one part.
    """
    parts = key.split(".")
    return any(
        len(pattern) <= len(parts) and all(name in ("*", part) for name, part in zip(pattern, parts, strict=False))
        for pattern in (prefix.split(".") for prefix in prefixes)
    )


def weights_sources(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sources of the backbones' weights by config key.

    Args:
        config: A nested configuration, or the settings of a model.
    """
    return {key: value for key, value in flatten_config(config).items() if matches_any(key, WEIGHTS_FILES)}


def weights_digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the existing files of backbone weights by config key.

    Args:
        config: A nested configuration.

    Raises:
        UserError: If a file cannot be read.
    """
    paths = {key: existing_file(value) for key, value in weights_sources(config).items() if isinstance(value, str)}
    return {key: file_digest(path) for key, path in paths.items() if path is not None}


def without_null(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat configuration without the keys of value null.

    A key that a later version has added with the default null is absent in the configurations of earlier runs.

    Args:
        config: The configuration by dotted key.
    """
    return {key: value for key, value in config.items() if value is not None}


def composed(value: Any) -> Any:
    """Return a configuration value with all texts in Unicode's composed form (NFC).

    Both forms of a name are the same category, whichever of them the command line has.
    """
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    return [composed(item) for item in value] if isinstance(value, list | tuple) else value
