"""Python interface: training, loading and reporting as functions, with the results of the commands of these names."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from hydra.errors import CompactHydraException

from moleflow.cli.train import former_names, messages
from moleflow.detector.base import Detector
from moleflow.experiment.compose import run_in_process
from moleflow.experiment.conf import conf_folders
from moleflow.inference.ensemble import load_detector
from moleflow.reports.document import ReportOptions
from moleflow.reports.page import write_report
from moleflow.runs.reader import load_config, load_run
from moleflow.utils.errors import UserError
from moleflow.utils.signals import Interrupted

_SUMMARY_METRICS = ("image_auroc", "pixel_ap", "routing_accuracy")


@dataclass(frozen=True, repr=False)
class RunResult:
    """A finished run.

    Attributes:
        folder: The run folder.
        metrics: The content of ``metrics.json``.

    Examples:
        >>> import moleflow
        >>> run = moleflow.RunResult.read("runs/parts/default/seed0")
        >>> run
        RunResult('runs/parts/default/seed0', 2 categories, image_auroc=..., pixel_ap=..., routing_accuracy=...)
        >>> list(run.metrics["per_category"])
        ['bottle', 'screw']
        >>> run.config["model"]["_target_"]
        'moleflow.models.closed_form.patchcore.PatchCore'
        >>> run.model
        MoLEFlow(model=PatchCore, backbone='tf_efficientnet_lite0', experts=['bottle', 'screw'], device='cpu')
    """

    folder: Path
    metrics: dict[str, Any]

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> "RunResult":
        """Return the run of a run folder.

        Raises:
            UserError: If it is not a finished run.
        """
        return cls(Path(folder), load_run(Path(folder)).metrics)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return load_config(self.folder)

    @cached_property
    def model(self) -> Detector:
        """The detector, on the CPU."""
        return load(self.folder)

    def __repr__(self) -> str:
        """Return folder, number of categories and main metrics."""
        values = (f"{name}={self.metrics[name]:.4f}" for name in _SUMMARY_METRICS if self.metrics.get(name) is not None)
        categories = f"{len(self.metrics['per_category'])} categories"
        return f"{type(self).__name__}({', '.join([repr(str(self.folder)), categories, *values])})"


def train(overrides: Sequence[str] = ()) -> RunResult:
    """Train and evaluate a detector as ``moleflow train OVERRIDES`` does, in this process.

    The run folder is that of the command, relative to the working folder. An interrupted run is resumed, and a finished
    one is not repeated. Files of ``conf/`` in the working folder extend the configuration of the package.

    Args:
        overrides: Overrides of a single run, as on the command line.

    Raises:
        UserError: If an override, the configuration, the data or the run folder does not permit the run.
        KeyboardInterrupt: If the run is interrupted; the same call resumes it.

    Examples:
        >>> import moleflow
        >>> run = moleflow.train(["+experiment=parts", "seed=0"])
        /.../runs/parts/default/seed0 is finished already; nothing to do.
        >>> run.metrics["routing_accuracy"]
        1.0
    """
    arguments = [overrides] if isinstance(overrides, str) else list(overrides)
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(
                f"{argument} is an option of the command moleflow train. moleflow.train takes overrides of a single "
                'run only, such as "seed=1".'
            )
    try:
        folder, metrics = run_in_process(arguments)
    except CompactHydraException as error:
        raise UserError("\n".join(messages(error, arguments, conf_folders()))) from error
    except UserError as error:
        if hints := list(former_names(arguments)):
            raise UserError("\n".join((str(error), *hints))) from error
        raise
    except Interrupted as stop:
        if stop.number != signal.SIGINT:
            raise SystemExit(stop.exit_status) from None
        raise KeyboardInterrupt("Call the function with the same overrides again to resume.") from None
    return RunResult(folder, metrics)


def load(folder: str | PathLike[str], device: str | torch.device = "cpu") -> Detector:
    """Return the detector of a run folder, a model folder or the run folder of an ensemble.

    Args:
        folder: The folder.
        device: Device of the computations, such as ``cuda``.

    Raises:
        UserError: If there is no model, or one of its files is missing or damaged.

    Examples:
        >>> import moleflow
        >>> model = moleflow.load("runs/parts/default/seed0")
        >>> [prediction.expert for prediction in model.predict(["data/screw/test/good/000.png"])]
        ['screw']
    """
    return load_detector(cast(str, folder), device)


def report(
    runs: str | PathLike[str] | Sequence[str | PathLike[str]] = ("runs",),
    out: str | PathLike[str] = "report",
    *,
    metric: str = "pixel_ap",
    target: float | None = None,
    baseline: str = "",
    compare: Sequence[str] = (),
    benchmark: Sequence[str] = ("best",),
    title: str = "Experiments",
) -> Path:
    """Write the report about run folders as ``moleflow report`` does; return the path of the page.

    Args:
        runs: Folders that hold runs, at any depth.
        out: Folder of the report: ``index.html``, ``report.md`` and ``tables``.
        metric: Metric that orders the leaderboard and is explained.
        target: Value of the metric to reach; None: that of the data set, if it has one.
        baseline: Configuration to compare with: its id, its label, or the path of a run.
        compare: The two configurations of the category table.
        benchmark: Columns of the benchmark table: ``best``, ``pareto``, ``all``, or configurations.
        title: Heading of the page.

    Raises:
        UserError: If a folder, the metric or a configuration does not exist.

    Examples:
        >>> import moleflow
        >>> moleflow.report(["runs"], out="report", metric="image_auroc")
        PosixPath('report/index.html')
    """
    folders = [runs] if isinstance(runs, str | PathLike) else runs
    options = ReportOptions(metric, target, baseline, tuple(compare), tuple(benchmark))
    return write_report([Path(folder) for folder in folders], Path(out), options, title).page
