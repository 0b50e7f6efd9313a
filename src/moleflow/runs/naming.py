"""Names of run folders: one per experiment, overrides and seed."""

import re
from collections.abc import Iterable, Sequence

from moleflow.runs.identity import NON_IDENTITY_KEYS, composed, matches_any
from moleflow.utils.io import shorten_name

_UNNAMED_KEYS = ("sweep", "seed", "hydra", "trainer", *NON_IDENTITY_KEYS)
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
    return folder_name(identity_overrides(overrides, swept))


def identity_overrides(overrides: Sequence[str], swept: Sequence[str] = ()) -> list[str]:
    """Return the overrides that :func:`run_label` includes, without their ``+`` and ``~``.

    Args:
        overrides: Hydra's task overrides.
        swept: Keys that differ between the jobs of a sweep.
    """
    keys = {override.lstrip("+~"): override_key(override) for override in overrides}
    unnamed = _UNNAMED_KEYS if "name" in keys.values() else ("experiment", *_UNNAMED_KEYS)
    return [
        override for override, key in keys.items() if (key in swept and key != "seed") or not matches_any(key, unnamed)
    ]


def display_name(experiment: str, overrides: Sequence[str], swept: Sequence[str] = ()) -> str:
    """Return the name of a run in a dashboard, which contains only what distinguishes it from other runs.

    In a sweep these are the overrides that differ between its jobs, otherwise those that affect results.

    Args:
        experiment: The experiment, which is the name if no override remains.
        overrides: Hydra's task overrides.
        swept: Keys that differ between the jobs of a sweep.
    """
    if swept:
        parts = [override.lstrip("+~") for override in overrides if override_key(override) in swept]
    else:
        seeds = [override for override in overrides if override_key(override) == "seed"]
        parts = [*identity_overrides(overrides), *seeds]
    return " ".join(parts) or experiment


def override_key(override: str) -> str:
    """Return the key of a Hydra override: ``model.adapter`` for ``+model.adapter=none``."""
    return override.lstrip("+~").split("=")[0].split("@")[0]


def folder_name(parts: Iterable[str]) -> str:
    """Return the sorted parts as one name that is valid on every file system.

    Different parts result in different names: a name that is shortened, or in which characters other than brackets and
    quotes are replaced, ends in a digest.
    """
    text = composed(",".join(sorted(parts)))
    name = re.sub(r"[^\w.,=+@\-]+", "_", text).strip("_") or "default"
    if shorten_name(name) != name or re.search(r"""[^\w.,=+@\-\[\]{}'"]""", text):
        return shorten_name(name, text)
    return name
