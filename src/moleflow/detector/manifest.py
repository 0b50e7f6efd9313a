"""Checks of the manifest of a model folder, which may be damaged or come from strangers."""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from moleflow.runs.content import MAX_CATEGORIES, MAX_NAME, check_values
from moleflow.utils.errors import UserError
from moleflow.utils.text import has_control_characters, one_line

FORMAT = 2
"""Format of the manifest and of the tensors of an expert that is written."""
READABLE_FORMATS = (1, FORMAT)
"""Formats that are read. In format 1 an expert has no ``training.maxima``."""
MAX_TENSOR_BYTES = 2**31
"""Largest file of tensors: some 17 times that of an expert with 3000 patches of 14 000 channels."""

_MAX_PATH_BYTES = 1000
_OVERRIDABLE_COMPONENTS = ("transform", "model", "scoring")


def check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """Check structure, names and sizes of a manifest; its settings are checked by :mod:`moleflow.detector.schema`.

    Args:
        manifest: The content of the manifest.
        path: Its path, for messages.

    Raises:
        UserError: If an entry is missing, or is not allowed; the message has file, key, value and what is allowed.
    """
    if manifest.get("format") not in READABLE_FORMATS or isinstance(manifest["format"], bool):
        formats = " or ".join(map(str, READABLE_FORMATS))
        raise UserError(
            f"{path} is not a model manifest of format={formats}: format is {_shown(manifest.get('format'))}."
        )
    try:
        check_values(manifest, "manifest")
    except ValueError as error:
        raise UserError(f"{path}: {str(error).removeprefix('manifest: ')}.") from error
    files = _entry(path, manifest, "files", dict, "a mapping of paths to sizes and digests")
    experts = _entry(path, manifest, "experts", list, "a list of experts")
    base = _entry(path, manifest, "base", str, "the path of a file")
    _entry(path, manifest, "settings", dict, "a mapping of components to their settings")
    for place, entries in (("files", files), ("experts", experts)):
        if len(entries) > MAX_CATEGORIES + 1:
            raise UserError(f"{path}: {place} has {len(entries)} entries and must have at most {MAX_CATEGORIES + 1}.")
    for name, listed in files.items():
        _check_listed(path, name, listed)
    names: set[str] = set()
    used = {base}
    for i, entry in enumerate(experts):
        _check_expert(path, f"experts.{i}", entry)
        for key, seen in (("name", names), ("file", used)):
            if entry[key] in seen:
                raise refusal(path, f"experts.{i}.{key}", entry[key], "that of no other entry")
            seen.add(entry[key])
    for name in used - files.keys():
        raise refusal(path, "files", list(files), f"a mapping that lists {one_line(name, 120)}")
    for name in files.keys() - used:
        raise refusal(path, "files", name, "the path of the base or of an expert")


def refusal(path: Path, key: str, value: Any, allowed: str) -> UserError:
    """Return the error of an entry that is not allowed.

    Args:
        path: The file.
        key: Dotted key of the entry.
        value: Its value.
        allowed: The allowed values in words, after "must be".
    """
    return UserError(f"{path}: {one_line(key, 120)} is {_shown(value)} and must be {allowed}.")


def check_name(path: Path, key: str, name: Any) -> None:
    """Check the name of an expert or a category.

    Args:
        path: The file, for the message.
        key: Dotted key of the name, for the message.
        name: The name.

    Raises:
        UserError: If it is no text, empty, too long, or has control characters.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or has_control_characters(name):
        raise refusal(path, key, name, f"a text of 1 to {MAX_NAME} characters without control characters")


def _check_expert(path: Path, place: str, entry: Any) -> None:
    if not isinstance(entry, Mapping):
        raise refusal(path, place, entry, "a mapping of name, file, categories and overrides")
    check_name(path, f"{place}.name", entry.get("name"))
    _entry(path, entry, "file", str, "the path of a file", f"{place}.")
    categories = _entry(path, entry, "categories", list, "a list of names", f"{place}.")
    if not 0 < len(categories) <= MAX_CATEGORIES:
        raise UserError(
            f"{path}: {place}.categories has {len(categories)} entries and must have 1 to {MAX_CATEGORIES}."
        )
    for i, category in enumerate(categories):
        check_name(path, f"{place}.categories.{i}", category)
    overrides = _entry(path, {"overrides": {}} | dict(entry), "overrides", dict, "a mapping", f"{place}.")
    further = _entry(path, {"feature_sets": {}} | overrides, "feature_sets", dict, "a mapping", f"{place}.overrides.")
    places = {f"{place}.overrides": overrides}
    places |= {f"{place}.overrides.feature_sets.{name}": each for name, each in further.items()}
    for key, each in places.items():
        if not isinstance(each, Mapping):
            raise refusal(path, key, each, "a mapping of components to overrides")
        for part in _OVERRIDABLE_COMPONENTS:
            if not isinstance(each.get(part, {}), Mapping):
                raise refusal(path, f"{key}.{part}", each[part], "a mapping of keys to values")


def _check_listed(path: Path, name: str, listed: Any) -> None:
    place = f"files.{name}"
    parts = PurePosixPath(name).parts
    if not parts or len(name.encode(errors="replace")) > _MAX_PATH_BYTES or has_control_characters(name):
        allowed = f"a path of at most {_MAX_PATH_BYTES} bytes without control characters"
        raise refusal(path, "files", name, allowed)
    if any(len(part.encode(errors="replace")) > 255 for part in parts):
        raise refusal(path, "files", name, "a path whose parts have at most 255 bytes each")
    if not isinstance(listed, Mapping):
        raise refusal(path, place, listed, "a mapping of bytes and sha256")
    size, digest = listed.get("bytes"), listed.get("sha256")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_TENSOR_BYTES:
        raise refusal(path, f"{place}.bytes", size, f"a number of bytes from 1 to {MAX_TENSOR_BYTES}")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise refusal(path, f"{place}.sha256", digest, "64 hexadecimal digits")


def _entry(path: Path, content: Mapping[str, Any], key: str, kind: type, allowed: str, place: str = "") -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        raise refusal(path, f"{place}{key}", value, allowed)
    return value


def _shown(value: Any) -> str:
    return one_line(json.dumps(value, default=str), 60)
