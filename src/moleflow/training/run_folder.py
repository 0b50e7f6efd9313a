"""The run folder: its name, its lock, and whether a command may go on in it."""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from moleflow.errors import UserError
from moleflow.files import read_json, write_json, write_text

# Where a run computes and how it is watched is not what it is.
CIRCUMSTANCES = ("resume", "logger", "callbacks", "trainer", "features.cache_dir", "features.num_workers", "progress")
_UNNAMED = ("experiment", "seed", "hydra", "dataset.root", *CIRCUMSTANCES)


def run_label(overrides: Sequence[str]) -> str:
    """Return the part of a run folder's name that says how the command differs from the experiment.

    The same overrides in any order give the same name; those that do not change what the run is are left out. A name
    too long for a folder is cut and ends in a digest.

    Args:
        overrides: Hydra's task overrides, such as ``optimizer.lr=2e-4``.
    """
    named = sorted(o.lstrip("+~") for o in overrides if not _is_any_of(o.lstrip("+~").split("=")[0], _UNNAMED))
    label = re.sub(r"[^\w.,=+@\-]+", "_", ",".join(named)).strip("_") or "default"
    if len(label) > 120:
        label = f"{label[:110]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return label


def _is_any_of(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as one level of dotted keys."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


class RunFolder:
    """One run's folder.

    Args:
        path: The folder; it is made.
        config: The run's resolved configuration.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = dict(config)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            UserError: If another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"{self.path} is in use by process {file.read().strip()}. Wait for it, or choose another folder "
                    "with hydra.run.dir=..."
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    @property
    def finished(self) -> bool:
        """Whether the run is complete: ``metrics.json`` is there and says so."""
        path = self.path / "metrics.json"
        return path.is_file() and read_json(path).get("status") == "finished"

    def claim(self, force: bool) -> None:
        """Write ``config.yaml``, or make sure that the one that is there says the same.

        Args:
            force: Go on in spite of a difference, with the new configuration.

        Raises:
            UserError: If the folder holds a run of another configuration.
        """
        path = self.path / "config.yaml"
        if path.is_file() and not force:
            differences = self.differences(yaml.safe_load(path.read_text(encoding="utf-8")))
            if differences:
                raise UserError(
                    f"{self.path} holds a run of another configuration:\n"
                    + "".join(f"  {key}: {old!r} there, {new!r} now\n" for key, (old, new) in differences.items())
                    + "Choose a new folder with hydra.run.dir=..., or go on in this one with resume=force."
                )
        write_text(path, yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))

    def differences(self, other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the keys in which another configuration describes another run: (theirs, ours)."""
        ours, theirs = flat(self.config), flat(other)
        keys = [key for key in {**theirs, **ours} if not _is_any_of(key, CIRCUMSTANCES)]
        absent = "(absent)"
        pairs = {key: (theirs.get(key, absent), ours.get(key, absent)) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def set_status(self, status: str, reason: str = "") -> None:
        """Write ``status.json``: running, finished, failed or interrupted, and why."""
        write_json(self.path / "status.json", {"status": status, "reason": reason, "process": os.getpid()})
