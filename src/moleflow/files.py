"""Files that are either whole or not there."""

import contextlib
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moleflow.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; on success it is flushed to disk and takes the place of ``path``.

    Whatever goes wrong, ``path`` keeps its former content and no temporary file is left (a kill may leave one, which
    nobody reads).

    Raises:
        UserError: If the disk is full or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = Path(name)
    try:
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file through :func:`replacing`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON through :func:`replacing`; numbers that JSON lacks (NaN, infinity) become null."""
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of itself, so that one flipped digit cannot pass for a number."""
    kept = plain(dict(content))
    write_json(path, {**kept, "seal": _seal(kept)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what :func:`write_sealed` wrote, without the seal.

    Raises:
        UserError: If the file is missing, is not JSON, or is not what was written; the message names it.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("seal", None) != _seal(content):
        raise UserError(f"{path} is damaged: its content does not match its own checksum. Restore it or run again.")
    return content


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: If the file is missing or is not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.") from error
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}). It is damaged: restore it or run again.") from error


def sha256(path: Path) -> str:
    """Return the hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(content: Any) -> Any:
    """Return ``content`` in JSON's types: mappings, lists, text, finite numbers, None."""
    if isinstance(content, dict):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return content


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush a rename: without this, a power cut may bring the former file back."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _cannot_write(path: Path, error: OSError) -> UserError:
    for above in path.parents:
        if above.exists() and not above.is_dir():
            return UserError(f"{path} cannot be written: {above} is a file. Choose a folder.")
    return UserError(f"{path} cannot be written: {error.strerror or error}. Free some space or choose another folder.")


def remove_remains(folder: Path, older_than: float = 0.0) -> None:
    """Remove temporary files that killed processes left anywhere below a folder.

    Args:
        folder: The folder.
        older_than: Seconds since the last change; 0 for a folder that nobody else writes to.
    """
    limit = time.time() - older_than
    for path in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):  # another process may be tidying too
            if not older_than or path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
