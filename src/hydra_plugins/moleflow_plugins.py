"""Sweeper and launcher of moleflow for Hydra, which imports this module at each start and accepts no other package."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Search with Optuna, ``hydra/sweeper=optuna``; see :class:`moleflow.experiment.search.Search`.

    Args:
        settings: The keys of ``conf/hydra/sweeper/optuna.yaml``.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the search.

        Raises:
            JobError: If a setting is invalid or Optuna is not installed.
        """
        from moleflow.experiment.search import Search

        self.search = Search(hydra_context, task_function, config, **self.settings)

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials.

        Args:
            arguments: Overrides of the command line.

        Raises:
            JobError: If the search space is invalid, or the study is that of another search.
        """
        self.search.run(arguments)


class RayLauncher(Launcher):
    """Jobs on a Ray cluster, ``hydra/launcher=ray``; see :func:`moleflow.experiment.ray_launcher.launch`.

    Args:
        settings: The keys of ``conf/hydra/launcher/ray.yaml``.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what the jobs share."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs and return their results in order.

        Args:
            job_overrides: Overrides of each job.
            initial_job_idx: Number of the first job.

        Raises:
            JobError: If Ray is not installed, a setting is invalid, or the cluster cannot be reached.
        """
        from moleflow.experiment.ray_launcher import launch

        return launch(
            self.hydra_context, self.task_function, self.config, job_overrides, initial_job_idx, self.settings
        )
