"""What the fault tests share: a server of processes, a tiny tree, and the run that nothing happened to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.harness import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Return the bench with its undisturbed run."""
    with Bench(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture
def place(bench: Bench, request: pytest.FixtureRequest) -> Path:
    """Return an empty folder's parent for one test."""
    return bench.base / request.node.name.replace("/", "_")
