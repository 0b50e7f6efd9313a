"""What all tests share: one thread a process, and the server that their commands are forked from."""

import os

# Before torch is imported; commands that tests start inherit it. The suite runs in several processes already, and
# threads beyond the cores slow all down.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator

import pytest

from helpers.processes import Processes


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Return what starts ``python train.py`` without the seconds that its imports take."""
    with Processes() as server:
        yield server
