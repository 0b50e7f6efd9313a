"""Atomic and checksummed files, and file locks."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from moleflow.utils.errors import UserError

MAX_JSON_BYTES = 2**24
"""Largest JSON file: some 8 times the largest of a run with 60 tasks and 100 epochs each."""

_MAX_NAME_BYTES = 120
_MAX_DIGESTS = 2**20  # of some 400 bytes each


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose file replaces ``path`` when the block succeeds.

    The temporary file is flushed to disk and then renamed. After an error ``path`` has its former content and the
    temporary file is removed. A killed process may leave it: see :func:`remove_stale_temporaries`.

    Args:
        path: The file to write. Its folder is created if it does not exist.

    Raises:
        UserError: If the disk is full or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = Path(name)
    try:
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file by :func:`atomic_write`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file by :func:`atomic_write`; NaN and infinity, which JSON lacks, become null."""
    write_text(path, json.dumps(to_jsonable(content), indent=2, allow_nan=False) + "\n")


def write_checksummed_json(path: Path, content: Mapping[str, Any], indent: int | None = 2) -> None:
    """Write a JSON object with a checksum of its content, which detects even a single changed digit.

    Args:
        path: The file to write.
        content: The object; its key ``checksum`` is reserved.
        indent: Spaces per level; None for one line, which Python's encoder in C writes ten times as fast.
    """
    jsonable = to_jsonable(dict(content))
    jsonable["checksum"] = _checksum(jsonable)
    write_text(path, json.dumps(jsonable, indent=indent, allow_nan=False) + "\n")


def read_checksummed_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the content of a file of :func:`write_checksummed_json`, without the checksum.

    Args:
        path: The file.
        max_bytes: Largest size that is read.

    Raises:
        UserError: If the file is missing, is too large, is not JSON, or does not match its checksum; the message has
            its path.
    """
    content = read_json(path, max_bytes)
    try:
        matches = isinstance(content, dict) and content.pop("checksum", None) == _checksum(content)
    except RecursionError:
        matches = False
    if not matches:
        raise UserError(f"{path} is damaged: its content does not match its checksum. Restore it or run again.")
    return cast(dict[str, Any], content)


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        max_bytes: Largest size that is read.

    Raises:
        UserError: If the file is missing, is not a regular file, is too large, or is not JSON; the message has its
            path.
    """
    try:
        return json.loads(read_regular(path, max_bytes).decode("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.") from error
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}). It is damaged: restore it or run again.") from error


def read_regular(path: Path, max_bytes: int, follow_link: bool = True) -> bytes:
    """Return the content of a regular file that is not too large; other kinds of files are never waited for.

    Args:
        path: The file.
        max_bytes: Largest size that is read.
        follow_link: Whether the file may be a symbolic link.

    Raises:
        ValueError: If it is a folder, pipe, device or socket, a link that may not be followed, or too large.
        OSError: If it is missing or cannot be read.
    """
    with open_regular(path, max_bytes, follow_link) as file:
        return file.read(max_bytes)


@contextlib.contextmanager
def open_regular(path: Path, max_bytes: int, follow_link: bool = True) -> Iterator[IO[bytes]]:
    """Open a regular file that is not too large for reading; see :func:`read_regular`.

    Args:
        path: The file.
        max_bytes: Largest size.
        follow_link: Whether the file may be a symbolic link.

    Raises:
        ValueError: If it is a folder, pipe, device or socket, a link that may not be followed, or too large.
        OSError: If it is missing or cannot be opened.
    """
    if not follow_link and path.is_symlink():
        raise ValueError(f"{path.name} is a symbolic link and must be a regular file")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would block
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        if status.st_size > max_bytes:
            raise ValueError(f"{path.name} has {status.st_size} bytes and must have at most {max_bytes}")
        with open(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def shorten_name(name: str, identity: str | None = None) -> str:
    """Return a file name that leaves room for suffixes in the 255 bytes of file systems.

    A name of at most 120 bytes is returned unchanged. A longer one is cut and ends in a digest, so that different names
    result in different files.

    Args:
        name: The name, without suffix.
        identity: The text that the digest is computed from; None: the name. With an identity, the digest is always
            appended.
    """
    encoded = name.encode(errors="surrogateescape")
    if identity is None and len(encoded) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256((name if identity is None else identity).encode(errors="surrogateescape")).hexdigest()
    return f"{encoded[: _MAX_NAME_BYTES - 10].decode(errors='ignore')}-{digest[:8]}"


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing_file(name: str) -> Path | None:
    """Return the path of an existing file, with ``~`` expanded; None if there is none of this name."""
    try:
        path = Path(name).expanduser()
        return path if path.is_file() else None
    except (RuntimeError, OSError):  # the home of an unknown user, a name that is too long
        return None


def file_digest(path: Path) -> str:
    """Return :func:`sha256` of a file, which is computed once while its modification time and size stay the same.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        state = path.stat()
        return _digest_of_version(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


@lru_cache(maxsize=_MAX_DIGESTS)
def _digest_of_version(path: Path, modified: int, size: int) -> str:
    return sha256(path)


def to_jsonable(content: Any) -> Any:
    """Return ``content`` converted to JSON's types: keys to str, tuples to lists, NaN and infinity to None."""
    if isinstance(content, dict):
        return {str(key): to_jsonable(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [to_jsonable(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return content


def remove_stale_temporaries(folder: Path, older_than: float = 0.0) -> None:
    """Remove the temporary files that killed processes left anywhere below a folder.

    Args:
        folder: The folder.
        older_than: Minimum age in seconds. Use 0 only for a folder to which no other process writes.
    """
    latest = time.time() - older_than
    for path in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):  # another process may be removing it, too
            if not older_than or path.stat().st_mtime < latest:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def file_lock(path: Path, wait: bool) -> Iterator[IO[str]]:
    """Hold an exclusive lock on a file for this process.

    The lock is released at the end of the block or of the process, however it ends. It is a POSIX record lock
    (``fcntl.lockf``) because forked data loader workers do not inherit those. They would inherit a ``flock``, which
    the package ``filelock`` uses, and a worker that outlives a killed run would hold it.

    POSIX locks do not exclude threads of one process, and a process loses its lock as soon as it closes any other file
    object of the same file.

    Args:
        path: The lock file. It and its folder are created if they do not exist; it is not removed.
        wait: Whether to wait until another process releases the lock.

    Yields:
        The lock file, open for reading and appending.

    Raises:
        BlockingIOError: If another process holds the lock and ``wait`` is false.
        OSError: If the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush a rename to disk: without this, a power failure may restore the former file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return the error of a file that cannot be written, with advice."""
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            return UserError(f"{path} cannot be written: {parent} is a file. Choose a folder.")
    return UserError(f"{path} cannot be written: {error.strerror or error}. Free some space or choose another folder.")
