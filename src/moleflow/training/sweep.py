"""A sweep as a whole: no two jobs in one folder, no job that stops the others, one table at the end."""

import csv
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from moleflow.cli import JobError, Told, register_resolvers
from moleflow.errors import UserError
from moleflow.files import read_json, replacing, write_json
from moleflow.training.run_folder import folder_name, override_key
from moleflow.training.tables import aligned

log = logging.getLogger(__name__)

# The workers of a parallel launcher never run train.py, but they unpickle the callback below, and this module with it.
register_resolvers()

COLUMNS = ("job", "status", "image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "routing_accuracy", "swept")


class SweepReport(Callback):
    """Follows the jobs of a sweep, in whatever process they run.

    Launchers send a copy of this object to the process of each job, which leaves a record of the job for the process
    that the user started. A job that failed returns None to the sweeper instead of its exception: Hydra's own sweeper
    would otherwise end with the first one and report none of the others.

    Args:
        swept: Keys that the jobs differ in. Set by the object itself: it writes them into the configuration of each
            job, whose folder is named after them.
        ensemble: Whether to measure all jobs as one ensemble at the end; see :mod:`moleflow.training.ensemble`.
    """

    def __init__(self, swept: Sequence[str] = (), ensemble: bool = False) -> None:
        self.swept = list(swept)
        self.ensemble = ensemble
        self.ledger: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Find out what is swept, tell the jobs, and open the ledger."""
        overrides = list(config.hydra.overrides.task)
        params = config.hydra.sweeper.get("params") or {}
        self.swept = [*(override_key(str(key)) for key in params), *swept_keys(overrides)]
        with read_write(config), open_dict(config):
            config.hydra.overrides.hydra.append(f"hydra.callbacks.sweep.swept=[{','.join(self.swept)}]")
        self.ledger = Path(config.hydra.sweep.dir).resolve() / "sweeps" / f"{folder_name(overrides)}.{os.getpid()}"
        self.ledger.mkdir(parents=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record how the job ended."""
        if config.hydra.mode != RunMode.MULTIRUN or self.ledger is None:
            return
        number = int(config.hydra.job.num)
        record: dict[str, Any] = {
            "job": number,
            "status": "finished",
            "overrides": " ".join(job_return.overrides or ()),
            "swept": " ".join(o for o in job_return.overrides or () if override_key(o) in self.swept),
            "folder": config.hydra.runtime.output_dir,
        }
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            record |= {"status": "failed", "reason": str(error) or type(error).__name__}
            expected = isinstance(error, JobError)
            log.error("Job %d failed: %s", number, record["reason"], exc_info=None if expected else error)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        write_json(self.ledger / f"{number}.json", record)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table, and what failed.

        Raises:
            Told: If a job failed.
        """
        assert self.ledger is not None
        records = sorted((read_json(path) for path in self.ledger.glob("*.json")), key=lambda record: record["job"])
        shutil.rmtree(self.ledger)
        table = self.ledger.with_suffix(".csv")
        rows = [_row(record) for record in records]
        with replacing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows((COLUMNS, *rows))
        print("\n".join(("", *aligned([COLUMNS, *rows]), "", f"The same table is in {table}.")))
        failed = [record for record in records if record["status"] == "failed"]
        if failed:
            print(f"\n{len(failed)} of {len(records)} jobs failed:")
            for record in failed:
                print(
                    f"\n  job {record['job']}: {record['overrides']}\n    " + record["reason"].replace("\n", "\n    ")
                )
            print("\nThe same command runs them again, and only them.", flush=True)
            raise Told(1)
        if self.ensemble:
            self._measure_together([Path(record["folder"]) for record in records], config)

    def _measure_together(self, folders: Sequence[Path], config: DictConfig) -> None:
        from moleflow.training.ensemble import ensemble
        from moleflow.training.results import summary
        from moleflow.training.trainer import device_of

        assert self.ledger is not None
        out = self.ledger.parents[1] / "ensemble" / self.ledger.name.rpartition(".")[0]
        try:
            metrics = ensemble(folders, out, str(device_of(config.trainer)), bool(config.progress))
        except UserError as error:
            print(error, file=sys.stderr)
            raise Told(1) from None
        print("\n".join((f"\nAll together, in {out}:", *summary(metrics))), flush=True)


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys to which a command line gives several values."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override_key(override.get_key_element()) for override in parsed if override.is_sweep_override()]


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    metrics = read_json(Path(record["folder"]) / "metrics.json") if record["status"] == "finished" else {}
    values = ("" if metrics.get(name) is None else f"{metrics[name]:.4f}" for name in COLUMNS[2:-1])
    return (str(record["job"]), record["status"], *values, record["swept"])
