"""What the fault tests share: a tiny tree, and the run that nothing happened to."""

import pytest

from faults.harness import Bench
from helpers.processes import Processes


@pytest.fixture(scope="session")
def bench(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return the bench with its undisturbed run."""
    return Bench(tmp_path_factory.mktemp("faults"), processes)
