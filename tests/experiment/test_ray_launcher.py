"""Tests of the Ray launcher on a cluster of this machine; skipped where Ray is not installed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobStatus
from hydra.types import HydraContext

from helpers.composing import CONF
from helpers.program import ROOT
from moleflow.experiment.compose import JobError, register_resolvers
from moleflow.utils.errors import UserError

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start Ray without its messages and warnings."""
    import warnings

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}")  # of the workers
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_job_whose_worker_dies_is_started_again(cluster: None, tmp_path: Path) -> None:
    from hydra_plugins.moleflow_plugins import RayLauncher

    def job(config: Any) -> int:
        """Die in each attempt but the last; the seed is the number of attempts."""
        attempts = tmp_path / f"attempts{config.seed}"
        with attempts.open("a") as file:
            file.write("x")
        if len(attempts.read_text()) < config.seed:
            os.kill(os.getpid(), signal.SIGKILL)
        return int(config.seed)

    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="train"):
        config = compose("config", [f"hydra.sweep.dir={tmp_path}/runs"], return_hydra_config=True)
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
        launcher = RayLauncher(address=None, num_cpus=1, num_gpus=0, max_retries=1)
        launcher.setup(hydra_context=context, task_function=job, config=config)
        first, second, third = launcher.launch([["seed=1"], ["seed=2"], ["seed=3"]], 4)
        assert (first.return_value, second.return_value) == (1, 2)
        assert first.hydra_cfg.hydra.job.num == 4  # type: ignore[union-attr]
        assert third.status == JobStatus.FAILED
        assert third.overrides == ["seed=3"]
        with pytest.raises(UserError, match="The Ray worker died, as in 1 restarts"):
            third.return_value  # noqa: B018
        assert (tmp_path / "attempts2").read_text() == (tmp_path / "attempts3").read_text() == "xx"
        launcher.settings["num_cpus"] = -1
        with pytest.raises(JobError, match=r"hydra\.launcher\.num_cpus=-1 must be at least 0"):
            launcher.launch([["seed=1"]], 0)
