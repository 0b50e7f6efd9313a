"""Fixture of the fault injection tests: a tiny data set and an undisturbed reference run."""

import pytest

from fault_injection.harness import Harness
from helpers.processes import Processes


@pytest.fixture(scope="session")
def harness(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """Return a harness with its reference run."""
    return Harness(tmp_path_factory.mktemp("faults"), processes)
