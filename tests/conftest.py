"""What all tests share: one thread a process, and the server that their commands are forked from."""

import os
from pathlib import Path

# Before torch is imported; commands that tests start inherit it. The suite runs in several processes already, and
# threads beyond the cores slow all down.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator

import pytest

from helpers.processes import Processes

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a folder in one process, where they share what takes long to make."""
    for item in items:
        place = item.path if item.path.parent == TESTS else item.path.parent
        item.add_marker(pytest.mark.xdist_group(place.stem))


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Return what starts ``python train.py`` without the seconds that its imports take."""
    with Processes() as server:
        yield server
