"""Configurations composed once a session: reading the same forty files takes most of a test's time."""

import copy
from functools import cache
from typing import Any

from moleflow.catalogue.entries import resolved
from moleflow.composing import find_conf

CONF = find_conf()


def once(*overrides: str) -> dict[str, Any]:
    """Return the resolved configuration of a command line, the caller's own copy."""
    return copy.deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return resolved(CONF, list(overrides))
