"""The run folder: its lock, its status, and the rules by which a command may use it."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from moleflow.runs.identity import DATASET_ROOTS, NON_IDENTITY_KEYS, composed, matches_any, weights_digests
from moleflow.runs.reader import load_config
from moleflow.utils.config import flatten_config
from moleflow.utils.errors import UserError
from moleflow.utils.io import (
    file_lock,
    read_checksummed_json,
    remove_stale_temporaries,
    sha256,
    write_checksummed_json,
    write_text,
)

RESULTS = ("metrics.json", "scores.csv")
MAX_DATA_BYTES = 2**28
"""Largest ``data.json``: some 1.5 million images."""

log = logging.getLogger(__name__)


class RunFolder:
    """Folder of one run.

    Args:
        path: The folder; created when it is locked.
        config: The resolved configuration of the run.

    Attributes:
        training_started: Whether the command of this object has begun to train; its files are then kept on an error.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = dict(config)
        self.training_started = False
        self._moved = False  # whether the recorded data set is at another place
        self._reported: set[str] = set()
        self._existing = {entry.name for entry in path.iterdir()} if path.is_dir() else set()

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold the folder for this process, and remove temporary files of killed processes.

        Args:
            wait: Whether to wait while another process holds it.

        Raises:
            UserError: If another process holds it and ``wait`` is false, or the folder is not writable.
        """
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(file_lock(self.path / ".lock", wait))
            except BlockingIOError:
                owner = (self.path / ".lock").read_text(errors="replace").strip()
                raise UserError(
                    f"{self.path} is in use by process {owner}. Wait for it, or choose another folder with "
                    "hydra.run.dir=..."
                ) from None
            except OSError as error:
                raise UserError(
                    f"{self.path} is not writable: {error.strerror or error}. Choose another folder with "
                    "hydra.run.dir=..."
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            remove_stale_temporaries(self.path)
            yield

    def is_finished(self) -> bool:
        """Return whether the run is complete and its result files are unchanged.

        A missing or damaged result file is logged as a warning; the run is then resumed at its end and writes it again.
        """
        status = self._status()
        if status.get("status") != "finished":
            return False
        files = status.get("files")
        recorded = files if isinstance(files, dict) else {}
        damaged = [name for name in RESULTS if _checksum(self.path / name) != recorded.get(name)]
        for name in damaged:
            if name not in self._reported:  # called several times per command
                log.warning("%s is missing or damaged. It is written again.", self.path / name)
                self._reported.add(name)
        return not damaged

    def check_configuration(self, force: bool) -> dict[str, tuple[Any, Any]]:
        """Return the keys, with (recorded, this) value, in which the recorded configuration describes another run.

        Args:
            force: Whether an unfinished run may continue in spite of a difference.

        Raises:
            UserError: If the folder has a run of another configuration, or one whose configuration is lost.
        """
        path = self.path / "config.yaml"
        differences = self._recorded_differences(path)
        finished = self._status().get("status") == "finished"
        if differences and (finished or not force):
            kind = "finished run" if finished else "run"
            lines = "".join(f"  {key}: {old!r} there, {new!r} now\n" for key, (old, new) in differences.items())
            remedy = "Name this run with name=..., or choose a new folder with hydra.run.dir=..."
            raise UserError(
                f"{self.path} has a {kind} of another configuration ({path.name}):\n{lines}"
                + (remedy if finished else f"{remedy}, or continue in this one with resume=force.")
            )
        return differences

    def claim(self, force: bool) -> None:
        """Write ``config.yaml``, or check that the existing one describes the same run.

        The configuration of a finished run is not written again, and one with another place of the data only by
        :meth:`claim_data`, after their comparison.

        Args:
            force: Continue in spite of a difference, with the new configuration: finished tasks are kept, and the
                unfinished one is trained again.

        Raises:
            UserError: If the folder has a run of another configuration, or one whose configuration is lost.
        """
        differences = self.check_configuration(force)
        if differences:
            for key, (old, new) in differences.items():
                log.warning("resume=force: %s changes from %r to %r.", key, old, new)
            self._discard_unfinished_tasks()
        if not (self._moved or self.is_finished()):
            self._write_configuration()

    def claim_data(self, fingerprint: Mapping[str, Mapping[str, Mapping[str, str]]], force: bool) -> None:
        """Write ``data.json``, or check that the existing one lists the same files if the run has begun.

        If it is missing or damaged, the data are not compared, which is logged as a warning; at another place than the
        recorded one they must be.

        Args:
            fingerprint: Digest of each file by category, kind and name.
            force: Continue in spite of a difference, with the new files: finished tasks are kept, and the unfinished
                one is trained again.

        Raises:
            UserError: If the run has used other files.
        """
        path = self.path / "data.json"
        finished = self.is_finished()
        changes: list[str] = []
        if self.has_results:
            try:
                changes = data_changes(read_data(self.path), fingerprint)
            except UserError as error:
                if self._moved and not force:
                    raise UserError(
                        f"{error} The data cannot be compared with those of the run, and they are at another place "
                        "(dataset.root). Restore the file or the place, or continue with resume=force."
                    ) from error
                log.warning("%s The data are not compared with those of the run.", error)
        if changes and (finished or not force):
            lines = "".join(f"  {line}\n" for line in changes)
            remedy = "Restore the files, name this run with name=..., or choose a new folder with hydra.run.dir=..."
            raise UserError(
                f"The data have changed since the {'finished ' if finished else ''}run in {self.path}:\n{lines}"
                + (remedy if finished else f"{remedy}, or continue in this one with resume=force.")
            )
        if changes:
            for line in changes:
                log.warning("resume=force: %s.", line)
            self._discard_unfinished_tasks()
        if not finished:
            content = {"files": fingerprint, "weights": weights_digests(self.config)}
            write_checksummed_json(path, content, indent=None)
            if self._moved:
                self._write_configuration()

    @property
    def has_results(self) -> bool:
        """Whether the folder has more of a run than its configuration and status."""
        return any((self.path / name).exists() for name in ("state", "model", *RESULTS))

    def discard(self) -> None:
        """Remove the files of a command that was rejected before it started, and its empty folders.

        Files that the folder had before this object was created remain, except for configuration, record of the data,
        status and lock.
        """
        for entry in list(self.path.iterdir()):
            if entry.is_dir() and entry.name not in self._existing:
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name not in self._existing or entry.name in ("config.yaml", "data.json", "status.json", ".lock"):
                entry.unlink(missing_ok=True)
        self.remove_empty()

    def remove_empty(self) -> None:
        """Remove the folder and its two parents, as far as they are empty and named automatically."""
        folders = (self.path, *self.path.parents)[:3]
        if folders[-1].name == self.config.get("name"):
            with contextlib.suppress(OSError):  # the first one that is not empty ends the loop
                for folder in folders:
                    folder.rmdir()

    def differences(self, other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return the keys, with (other, this) value, in which another configuration describes another run.

        A key that is absent from one configuration equals null in the other one.
        """
        ours, theirs = (
            {composed(key): composed(value) for key, value in flatten_config(config).items()}
            for config in (self.config, other)
        )
        keys = [key for key in {**theirs, **ours} if not matches_any(key, NON_IDENTITY_KEYS)]
        absent = "(absent)"
        return {
            key: (theirs.get(key, absent), ours.get(key, absent)) for key in keys if theirs.get(key) != ours.get(key)
        }

    def set_status(self, status: str, reason: str = "") -> None:
        """Write ``status.json``: running, finished, failed, interrupted or pruned, and the reason.

        The status of a finished run lists size and sha256 of its result files. The status ``running`` of a process that
        no longer exists means that the run was killed.
        """
        files = {name: _checksum(self.path / name) for name in RESULTS} if status == "finished" else {}
        content = {"status": status, "reason": reason, "process": os.getpid(), "files": files}
        write_checksummed_json(self.path / "status.json", content)

    def _write_configuration(self) -> None:
        text = yaml.dump(self.config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        write_text(self.path / "config.yaml", text)

    def _discard_unfinished_tasks(self) -> None:
        """Remove epoch checkpoints and results of other processes, which belong to the former configuration or data."""
        for checkpoint in (self.path / "state").glob("*.ckpt"):
            checkpoint.unlink()
        for stored_task in (self.path / "state").glob("task*/"):
            shutil.rmtree(stored_task)

    def _recorded_differences(self, path: Path) -> dict[str, tuple[Any, Any]]:
        """Return the differences between the recorded configuration and this one; none in a new folder."""
        if not path.exists():
            return {path.name: ("(missing)", "of this command")} if self.has_results else {}
        try:
            recorded = load_config(self.path)
            flat, own = flatten_config(recorded), flatten_config(self.config)
            self._moved |= any(matches_any(key, DATASET_ROOTS) and flat.get(key) != value for key, value in own.items())
            differences = self.differences(recorded)
        except UserError as error:
            return {path.name: (f"(damaged: {error})", "of this command")}
        return self._with_weights_by_content(differences)

    def _with_weights_by_content(self, differences: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
        """Return differences of configurations in which files of weights with recorded digests are compared by these.

        Args:
            differences: (recorded, this) value of each differing key, with files of weights compared by their paths.
        """
        digests = weights_digests(self.config)
        try:
            recorded = read_weights(self.path) if digests else {}
        except UserError:  # missing or damaged, which claim_data reports
            recorded = {}
        equal = {key for key, digest in digests.items() if recorded.get(key) == digest}
        changed = {
            key: (f"sha256 {recorded[key]}", f"sha256 {digest}")
            for key, digest in digests.items()
            if key in recorded and key not in equal
        }
        return {key: values for key, values in differences.items() if key not in equal} | changed

    def _status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        try:
            return read_checksummed_json(path) if path.is_file() else {}
        except UserError as error:
            log.warning("%s The status is not used.", error)
            return {}


class _Dumper(yaml.SafeDumper):
    """Writes equal objects twice: readers accept neither anchors nor aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the errors of any library on a full or read-only disk into one message.

    Raises:
        UserError: In place of an :class:`OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}. Correct this and run the same command again; "
            "finished tasks are kept."
        ) from error


def read_data(folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return the digests of the files that a run has used, by category, kind and name.

    Args:
        folder: The run folder.

    Raises:
        UserError: If ``data.json`` is missing or damaged.
    """
    path = folder / "data.json"
    files = read_checksummed_json(path, MAX_DATA_BYTES).get("files")
    levels: list[Any] = [files]
    for _ in range(3):
        if not all(isinstance(level, dict) for level in levels):
            raise UserError(f"{path} is damaged: files must map categories, kinds and names to digests.")
        levels = [value for level in levels for value in level.values()]
    if not all(isinstance(digest, str) for digest in levels):
        raise UserError(f"{path} is damaged: files must map categories, kinds and names to digests.")
    return cast(dict[str, dict[str, dict[str, str]]], files)


def read_weights(folder: Path) -> dict[str, str]:
    """Return the digests of the files of backbone weights that a run has used, by config key.

    Args:
        folder: The run folder. A run of an earlier version has recorded no digests.

    Raises:
        UserError: If ``data.json`` is missing or damaged.
    """
    path = folder / "data.json"
    digests = read_checksummed_json(path, MAX_DATA_BYTES).get("weights", {})
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise UserError(f"{path} is damaged: weights must map config keys to digests.")
    return digests


def data_changes(
    recorded: Mapping[str, Mapping[str, Mapping[str, str]]], current: Mapping[str, Mapping[str, Mapping[str, str]]]
) -> list[str]:
    """Return one line per category and kind of files that differ, with numbers and an example of each change.

    Args:
        recorded: Digest of each file by category, kind and name.
        current: The same of the files of now.
    """
    lines = []
    for category in sorted({*recorded, *current}):
        before, now = recorded.get(category, {}), current.get(category, {})
        for kind in dict.fromkeys((*before, *now)):
            old, new = before.get(kind, {}), now.get(kind, {})
            changes = {
                "added": sorted(new.keys() - old.keys()),
                "removed": sorted(old.keys() - new.keys()),
                "changed": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
            }
            parts = [f"{len(names)} {change} (such as {names[0]})" for change, names in changes.items() if names]
            if parts:
                lines.append(f"{category}, {kind}: {', '.join(parts)}")
    return lines


def _checksum(path: Path) -> dict[str, Any] | None:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)} if path.is_file() else None
