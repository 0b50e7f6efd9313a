"""Fixtures of all tests, and the distribution of tests to processes."""

import os

# Before torch is imported; commands that tests start inherit it. The suite runs in several processes already, and
# more threads than cores slow all of them down.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from helpers.processes import Processes

if TYPE_CHECKING:
    from helpers.detectors import SmallRun


# Times depend on other work on the machine.
hypothesis.settings.register_profile(
    "without time limits", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("without time limits")


class FolderScheduling(LoadScopeScheduling):
    """Runs the tests of a folder in one process, where they share fixtures that take long to set up."""

    def _split_scope(self, nodeid: str) -> str:
        folders, _, file = nodeid.split("::")[0].rpartition("/")
        return file if folders == "tests" else folders


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FolderScheduling:
    """Return the scheduler that distributes tests to processes."""
    return FolderScheduling(config, log)


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Return a starter of ``python train.py`` processes, which need no time for imports."""
    with Processes() as server:
        yield server


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> "SmallRun":
    """Return a run of the categories bottle and screw, with figures, on a tree that also has the category tile."""
    from helpers.detectors import SmallRun, train_small_run  # imports torch, which many tests do not need
    from helpers.trees import write_mvtec_tree

    root = tmp_path_factory.mktemp("small_run")
    tree = write_mvtec_tree(root / "tree", ("bottle", "screw", "tile"), train=12, good=6)
    train_small_run(tree, root / "run", "dataset.categories=[bottle,screw]", "callbacks=default")
    return SmallRun(root / "run", tree)
