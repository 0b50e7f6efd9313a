"""What all tests share: one thread a process, and the server that their commands are forked from."""

import os

# Before torch is imported; commands that tests start inherit it. The suite runs in several processes already, and
# threads beyond the cores slow all down.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from helpers.processes import Processes


class ByFolder(LoadScopeScheduling):
    """Keeps the tests of a folder, or else of a file, in one process, where they share what takes long to make."""

    def _split_scope(self, nodeid: str) -> str:
        folders, _, file = nodeid.split("::")[0].rpartition("/")
        return file if folders == "tests" else folders


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    """Return what deals tests to processes."""
    return ByFolder(config, log)


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Return what starts ``python train.py`` without the seconds that its imports take."""
    with Processes() as server:
        yield server
