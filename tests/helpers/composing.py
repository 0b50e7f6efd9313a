"""Configurations composed once per session, because composing dominates the time of a test."""

import copy
from functools import cache
from typing import Any

from moleflow.catalogue.entries import resolve
from moleflow.experiment.conf import find_conf

CONF = find_conf()


def once(*overrides: str) -> dict[str, Any]:
    """Return a copy of the resolved configuration of a command."""
    return copy.deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return resolve(CONF, overrides)
