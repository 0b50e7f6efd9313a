"""Identity of a run: the config keys that do not affect its results."""

import unicodedata
from collections.abc import Sequence
from typing import Any

NON_IDENTITY_KEYS = (
    "resume", "logger", "callbacks", "features.cache_dir", "features.num_workers", "progress",
    "description", "reported", "expected", "objective", "scenario.parallel",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "deterministic")),
)  # fmt: skip
"""Keys that do not affect results and are ignored when configurations are compared; each includes the keys below it."""


def matches_any(key: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted key equals one of the prefixes or lies below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def composed(value: Any) -> Any:
    """Return a configuration value with all texts in Unicode's composed form (NFC).

    Both forms of a name are the same category, whichever of them the command line has.
    """
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    return [composed(item) for item in value] if isinstance(value, list | tuple) else value
