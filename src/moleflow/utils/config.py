"""Flattening of nested configurations and type checks of their values."""

import json
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from moleflow.utils.errors import UserError
from moleflow.utils.text import one_line

_WORDS = {int: "whole number", float: "number", str: "text"}


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as one level of dotted keys.

    Args:
        config: Nested mappings. An empty mapping stays a value.
        prefix: Prefix of all keys, for example ``"model."``.
    """
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            result |= flatten_config(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def check_type(key: str, value: Any, annotation: Any) -> None:
    """Raise ``UserError`` unless a value matches a type annotation.

    An int is accepted as a float; a bool is neither. Every value matches ``Any``.

    Args:
        key: The config key, for the message.
        value: The value to check.
        annotation: int, float, bool, str, None or Any, a union of these, or a sequence of one of them.

    Raises:
        UserError: If the value does not match; the message names the allowed types.
    """
    if not is_instance(value, annotation):
        shown = json.dumps(value) if value is None or isinstance(value, bool) else value  # YAML's null, true and false
        raise UserError(f"{key}={one_line(str(shown), 200)} must be {describe_type(annotation)}.")


def is_instance(value: Any, annotation: Any) -> bool:
    """Return whether a value matches an annotation, by the rules of :func:`check_type`."""
    if annotation is Any:
        return True
    if isinstance(annotation, UnionType):
        return any(is_instance(value, option) for option in get_args(annotation))
    if get_origin(annotation) is Sequence:
        (item,) = get_args(annotation)
        return isinstance(value, Sequence) and not isinstance(value, str) and all(is_instance(v, item) for v in value)
    if annotation in (int, float):
        return isinstance(value, int if annotation is int else int | float) and not isinstance(value, bool)
    return isinstance(value, NoneType if annotation is None else annotation)


def describe_type(annotation: Any) -> str:
    """Return an annotation in words, such as ``a whole number or a list of whole numbers``."""
    if isinstance(annotation, UnionType):
        return " or ".join(map(describe_type, get_args(annotation)))
    if get_origin(annotation) is Sequence:
        (item,) = get_args(annotation)
        items = get_args(item) if isinstance(item, UnionType) else (item,)
        return f"a list of {' or '.join(f'{_WORDS[option]}s' for option in items)}"
    if annotation is bool:
        return "true or false"
    return "null" if annotation in (None, NoneType) else f"a {_WORDS[annotation]}"
