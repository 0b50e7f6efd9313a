"""Hydra callback for sweeps: distinct job folders, failures that do not stop other jobs, and a final table."""

import csv
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from moleflow.experiment.compose import PRUNED, JobError, ReportedExit, register_resolvers
from moleflow.experiment.early_checks import check_data_root
from moleflow.experiment.objective import check_objective, check_search_objective, objective_keys
from moleflow.runs.naming import folder_name, override_key
from moleflow.utils.errors import UserError
from moleflow.utils.io import atomic_write, read_json, write_json
from moleflow.utils.tables import format_table

log = logging.getLogger(__name__)

# The workers of a parallel launcher never run the command, but they import this module to unpickle the callback.
register_resolvers()

_DATA_KEYS = {"dataset", "experiment", "sweep", "objective"}
"""First parts of the swept keys with which the data set or the objective differs between jobs."""

COLUMNS = ("job", "status", "image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "routing_accuracy", "swept")


class SweepReport(Callback):
    """Records the jobs of a sweep, in any process, and prints a table at the end.

    Launchers send a copy of this object to the process of each job, which writes a record of the job for the process
    that the user started. A failed job returns None to the sweeper instead of its exception, because Hydra's own
    sweeper ends with the first exception and reports none of the other jobs.

    Args:
        swept: Keys in which the jobs differ. Set by the callback itself: it writes them into the configuration of each
            job, whose folder is named after them.
    """

    active: ClassVar["SweepReport | None"] = None
    """The report of the sweep that this process has started and not ended."""

    def __init__(self, swept: Sequence[str] = ()) -> None:
        self.swept = list(swept)
        self.records: Path | None = None
        self.remedy = "Run the same command again to repeat the failed jobs only."

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Determine the swept keys, add them to the jobs' configuration, and create the folder of the records.

        Raises:
            ReportedExit: If the data set does not permit the objective of a search.
        """
        overrides = list(config.hydra.overrides.task)
        params = config.hydra.sweeper.get("params") or {}
        self.swept = [*(override_key(str(key)) for key in params), *swept_keys(overrides)]
        if is_search(config.hydra):
            self.remedy = "Run the same command again to replace the failed trials by new ones."
            if not {key.split(".")[0] for key in self.swept} & _DATA_KEYS:
                _check_search(config)
        with read_write(config), open_dict(config):
            config.hydra.overrides.hydra.append(f"hydra.callbacks.sweep.swept=[{','.join(self.swept)}]")
        self.records = Path(config.hydra.sweep.dir).resolve() / "sweeps" / f"{folder_name(overrides)}.{os.getpid()}"
        self.records.mkdir(parents=True)
        SweepReport.active = self

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the record of a job."""
        if config.hydra.mode != RunMode.MULTIRUN or self.records is None:
            return
        number = int(config.hydra.job.num)
        record: dict[str, Any] = {
            "job": number,
            "status": "finished",
            "overrides": " ".join(job_return.overrides or ()),
            "swept": " ".join(o for o in job_return.overrides or () if override_key(o) in self.swept),
            "folder": config.hydra.runtime.output_dir,
        }
        if job_return.status == JobStatus.COMPLETED and job_return.return_value == PRUNED:
            record["status"] = PRUNED
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            record |= {"status": "failed", "reason": str(error) or type(error).__name__}
            expected = isinstance(error, JobError | UserError)
            log.error("Job %d failed: %s", number, record["reason"], exc_info=None if expected else error)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        write_json(self.records / f"{number}.json", record)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and write the table, and list the failures.

        Raises:
            ReportedExit: If a job failed.
        """
        self.end()

    def end(self) -> None:
        """Print and write the table, and list the failures; also after an exception of the sweeper.

        Raises:
            ReportedExit: If a job failed.
        """
        assert self.records is not None
        SweepReport.active = None
        records = sorted((read_json(path) for path in self.records.glob("*.json")), key=lambda record: record["job"])
        shutil.rmtree(self.records)
        table = self.records.with_suffix(".csv")
        rows = [_row(record) for record in records]
        if not rows:  # the search was complete, or ended before its first job
            return
        with atomic_write(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows((COLUMNS, *rows))
        print("\n".join(("", *format_table([COLUMNS, *rows]), "", f"This table is also in {table}.")))
        failures = [record for record in records if record["status"] == "failed"]
        if failures:
            print(f"\n{len(failures)} of {len(records)} jobs failed:")
            for record in failures:
                reason = record["reason"].replace("\n", "\n    ")
                print(f"\n  job {record['job']}: {record['overrides']}\n    {reason}")
            print(f"\n{self.remedy}", flush=True)
            raise ReportedExit(1)


def is_search(hydra: DictConfig | HydraConf) -> bool:
    """Return whether the jobs are those of a sweeper that optimizes the objective, and not of Hydra's grid.

    Args:
        hydra: Hydra's own configuration.
    """
    return hydra.mode == RunMode.MULTIRUN and not str(hydra.sweeper._target_).endswith(".BasicSweeper")


def _check_search(config: DictConfig) -> None:
    """Check before the first job that the data set permits the objective.

    Raises:
        ReportedExit: If it does not; the error has been printed.
    """
    sections = ("dataset", "transform", "features", "trainer", "masks", "validation", "seed", "objective")
    try:
        settings: dict[str, Any] = {
            key: OmegaConf.to_container(config[key], resolve=True) if OmegaConf.is_config(config[key]) else config[key]
            for key in sections
        }
        check_objective(settings["objective"])
        check_data_root(settings["dataset"])
        from moleflow.experiment.build import build_data  # imports torch

        data = build_data(settings)
        for key in objective_keys(settings["objective"]):
            check_search_objective(key, data)
    except UserError as error:
        print(error, file=sys.stderr)
        raise ReportedExit(1) from None


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys that a command line sets to several values."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override_key(override.get_key_element()) for override in parsed if override.is_sweep_override()]


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    metrics = read_json(Path(record["folder"]) / "metrics.json") if record["status"] == "finished" else {}
    values = ("" if metrics.get(name) is None else f"{metrics[name]:.4f}" for name in COLUMNS[2:-1])
    return (str(record["job"]), record["status"], *values, record["swept"])
