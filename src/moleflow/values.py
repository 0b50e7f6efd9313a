"""Values of a configuration: by one level of keys, and whether each is of the kind that it is used as."""

import json
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from moleflow.errors import UserError

_WORDS = {int: "whole number", float: "number", str: "text"}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as one level of dotted keys."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def check_value(key: str, value: Any, kind: Any) -> None:
    """Make sure that a value is what a parameter is annotated with.

    A whole number is a number, too; true and false are none. What is annotated as Any may be anything.

    Args:
        key: The config key, for the message.
        value: The value given.
        kind: int, float, bool, str, None or Any, a union of such, or a sequence of one.

    Raises:
        UserError: If it is of another kind; the message says which.
    """
    if not _is_of(value, kind):
        shown = json.dumps(value) if value is None or isinstance(value, bool) else value  # as YAML has it
        raise UserError(f"{key}={shown} must be {_said(kind)}.")


def _is_of(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if isinstance(kind, UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    if get_origin(kind) is Sequence:
        (one,) = get_args(kind)
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_is_of(v, one) for v in value)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, NoneType if kind is None else kind)


def _said(kind: Any) -> str:
    """Return the kind in words, such as ``a whole number or a list of whole numbers``."""
    if isinstance(kind, UnionType):
        return " or ".join(map(_said, get_args(kind)))
    if get_origin(kind) is Sequence:
        (one,) = get_args(kind)
        kinds = get_args(one) if isinstance(one, UnionType) else (one,)
        return f"a list of {' or '.join(f'{_WORDS[k]}s' for k in kinds)}"
    if kind is bool:
        return "true or false"
    return "null" if kind in (None, NoneType) else f"a {_WORDS[kind]}"
