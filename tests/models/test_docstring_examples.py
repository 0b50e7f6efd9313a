"""Examples in the docstrings of the models run and give the documented output."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import moleflow.models

MODULES = [module.name for module in pkgutil.walk_packages(moleflow.models.__path__, "moleflow.models.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0
