"""The run folder: its name, its lock, and whether a command may go on in it."""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from moleflow.errors import UserError
from moleflow.files import read_sealed, remove_remains, sha256, write_sealed, write_text
from moleflow.values import flat

# Where a run computes, how it is watched and what others measured is not what it is.
CIRCUMSTANCES = (
    "resume", "logger", "callbacks", "features.cache_dir", "features.num_workers", "progress",
    "description", "reported", "expected", "objective", "scenario.parallel",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "deterministic")),
)  # fmt: skip
BEFORE: dict[str, Any] = {
    "masks": "seen", "per_category": {}, "held_out": 0, "augmentation": "none", "optimizer.lora_delay": 0,
    "model.freedom": None,
}  # fmt: skip
"""What a configuration meant that was written before there was such a key."""
_UNNAMED = ("sweep", "seed", "hydra", "dataset.root", "trainer", *CIRCUMSTANCES)
RESULTS = ("metrics.json", "scores.csv")

log = logging.getLogger(__name__)


def run_label(overrides: Sequence[str], swept: Sequence[str] = ()) -> str:
    """Return the part of a run folder's name that says how the command differs from the experiment.

    The same overrides in any order give the same name; those that do not change what the run is are left out. The
    experiment is left out as long as it names the run: the folder above has its name. The seed has a folder of its own
    below, so a job of a sweep over seeds finds what was run without a sweep.

    Args:
        overrides: Hydra's task overrides, such as ``optimizer.lr=2e-4``.
        swept: Keys that differ between the jobs of a sweep: named in any case but the seed's, so that no two jobs share
            a folder.
    """
    named = {o.lstrip("+~"): override_key(o) for o in overrides}
    unnamed = _UNNAMED if "name" in named.values() else ("experiment", *_UNNAMED)
    return folder_name(o for o, key in named.items() if (key in swept and key != "seed") or not is_any_of(key, unnamed))


def override_key(override: str) -> str:
    """Return the key of one of Hydra's overrides: ``model.adapter`` of ``+model.adapter=none``."""
    return override.lstrip("+~").split("=")[0].split("@")[0]


def folder_name(parts: Iterable[str]) -> str:
    """Return the parts, sorted, as one name that every file system takes; other parts give another name.

    A name that had to be cut, or in which more than brackets and quotes had to be replaced, ends in a digest.
    """
    text = ",".join(sorted(parts))
    name = re.sub(r"[^\w.,=+@\-]+", "_", text).strip("_") or "default"
    if len(name) > 120 or re.search(r"""[^\w.,=+@\-\[\]{}'"]""", text):
        name = f"{name[:110]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def is_any_of(key: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted key is one of the prefixes or lies below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


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
        """Hold the folder for this process, and remove what a killed one left half written.

        The lock ends with the process, however that ends, and is not shared by the workers that it forks.

        Raises:
            UserError: If another process holds it, or the folder cannot be written to.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.path / ".lock").open("a+"))
            except OSError as error:
                raise UserError(
                    f"{self.path} cannot be written to: {error.strerror or error}. Choose another folder with "
                    "hydra.run.dir=..."
                ) from error
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"{self.path} is in use by process {file.read().strip()}. Wait for it, or choose another folder "
                    "with hydra.run.dir=..."
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            remove_remains(self.path)
            yield

    def finished(self) -> bool:
        """Return whether the run is complete and its results are as they were written.

        A result that is missing or damaged is named in a warning; the run then goes on at its end and writes it again.
        """
        status = self._status()
        if status.get("status") != "finished":
            return False
        faults = [name for name in RESULTS if _listing(self.path / name) != status.get("files", {}).get(name)]
        for name in faults:
            log.warning("%s is missing or damaged; it is written again.", self.path / name)
        return not faults

    def claim(self, force: bool) -> None:
        """Write ``config.yaml``, or make sure that the one that is there says the same; a finished run keeps its own.

        Args:
            force: Go on in spite of a difference, with the new configuration: tasks that are done stay as they are,
                the one in progress begins anew.

        Raises:
            UserError: If the folder holds a run of another configuration, or one whose configuration is lost.
        """
        path = self.path / "config.yaml"
        differences = self._recorded_differences(path)
        ways = "Name this one with name=..., or choose a new folder with hydra.run.dir=..."
        finished = self._status().get("status") == "finished"
        kind = "finished run" if finished else "run"
        if differences and (finished or not force):
            raise UserError(
                f"{self.path} holds a {kind} of another configuration, as its {path.name} says:\n"
                + "".join(f"  {key}: {old!r} there, {new!r} now\n" for key, (old, new) in differences.items())
                + (f"{ways}" if finished else f"{ways}, or go on in this one with resume=force.")
            )
        if differences:
            for key, (old, new) in differences.items():
                log.warning("resume=force: %s was %r, is %r from here on.", key, old, new)
            for checkpoint in (self.path / "state").glob("*.ckpt"):
                checkpoint.unlink()
            for learned in (self.path / "state").glob("task*/"):
                shutil.rmtree(learned)
        if self.finished():  # not one file of it is touched any more
            return
        write_text(path, yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))

    @property
    def begun(self) -> bool:
        """Whether there is anything of a run but its configuration and status."""
        return any((self.path / name).exists() for name in ("state", "model", *RESULTS))

    def discard(self) -> None:
        """Remove what a command has left that was refused before it began, and the folders named after it."""
        for name in ("config.yaml", "status.json", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        named = (self.path, *self.path.parents)[:3]
        if named[-1].name == self.config.get("name"):
            with contextlib.suppress(OSError):  # from the first one on that holds something else
                for folder in named:
                    folder.rmdir()

    def _recorded_differences(self, path: Path) -> dict[str, tuple[Any, Any]]:
        """Return how the recorded configuration differs from this one; none in a new folder."""
        try:
            recorded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if self.begun:
                return {"config.yaml": ("(missing)", "of this command")}
            return {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            return {"config.yaml": (f"(damaged: {error})", "of this command")}
        return self.differences(recorded if isinstance(recorded, dict) else {})

    def differences(self, other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the keys in which another configuration describes another run: (theirs, ours)."""
        ours, theirs = BEFORE | flat(self.config), BEFORE | flat(other)
        keys = [key for key in {**theirs, **ours} if not is_any_of(key, CIRCUMSTANCES)]
        absent = "(absent)"
        pairs = {key: (theirs.get(key, absent), ours.get(key, absent)) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def set_status(self, status: str, reason: str = "") -> None:
        """Write ``status.json``: running, finished, failed or interrupted, and why.

        A finished run lists size and sha256 of its results. A status that says running, of a process that is gone,
        means that the run was killed.
        """
        files = {name: _listing(self.path / name) for name in RESULTS} if status == "finished" else {}
        content = {"status": status, "reason": reason, "process": os.getpid(), "files": files}
        write_sealed(self.path / "status.json", content)

    def _status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        try:
            return read_sealed(path) if path.is_file() else {}
        except UserError as error:
            log.warning("%s It is not used.", error)
            return {}


def _listing(path: Path) -> dict[str, Any] | None:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)} if path.is_file() else None
