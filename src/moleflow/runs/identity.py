"""Identity of a run: the config keys that define it, and the name of its folder."""

import re
from collections.abc import Iterable, Sequence

from moleflow.utils.io import shorten_name

NON_IDENTITY_KEYS = (
    "resume", "logger", "callbacks", "features.cache_dir", "features.num_workers", "progress",
    "description", "reported", "expected", "objective", "scenario.parallel",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "deterministic")),
)  # fmt: skip
"""Keys that do not affect results and are ignored when configurations are compared; each includes the keys below it."""

_UNNAMED_KEYS = ("sweep", "seed", "hydra", "dataset.root", "trainer", *NON_IDENTITY_KEYS)
"""Keys whose overrides are left out of the folder name."""


def run_label(overrides: Sequence[str], swept: Sequence[str] = ()) -> str:
    """Return the part of a run folder's name that lists the overrides of its command.

    The order of the overrides does not matter. Left out are overrides that do not affect results, the seed, which is a
    subfolder of its own (so a sweep over seeds finds the folders of single runs), and the experiment unless ``name`` is
    overridden, because the parent folder is named after it.

    Args:
        overrides: Hydra's task overrides, such as ``optimizer.lr=2e-4``.
        swept: Keys that differ between the jobs of a sweep. They are always included, except the seed, so that no two
            jobs share a folder.

    Returns:
        The name, ``default`` if no override remains.
    """
    keys = {override.lstrip("+~"): override_key(override) for override in overrides}
    unnamed = _UNNAMED_KEYS if "name" in keys.values() else ("experiment", *_UNNAMED_KEYS)
    return folder_name(
        override for override, key in keys.items() if (key in swept and key != "seed") or not matches_any(key, unnamed)
    )


def override_key(override: str) -> str:
    """Return the key of a Hydra override: ``model.adapter`` for ``+model.adapter=none``."""
    return override.lstrip("+~").split("=")[0].split("@")[0]


def folder_name(parts: Iterable[str]) -> str:
    """Return the sorted parts as one name that is valid on every file system.

    Different parts result in different names: a name that is shortened, or in which characters other than brackets and
    quotes are replaced, ends in a digest.
    """
    text = ",".join(sorted(parts))
    name = re.sub(r"[^\w.,=+@\-]+", "_", text).strip("_") or "default"
    if shorten_name(name) != name or re.search(r"""[^\w.,=+@\-\[\]{}'"]""", text):
        return shorten_name(name, text)
    return name


def matches_any(key: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted key equals one of the prefixes or lies below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
