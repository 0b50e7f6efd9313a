"""Log of a run in MLflow."""

import csv
import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from PIL import Image

from moleflow.training.experiment_log.base import ExperimentLog, LogImage, Table, run_id
from moleflow.utils.errors import UserError

RUN_ID_TAG = "moleflow.run_id"
"""Tag of a run in MLflow, by which a resumed run is found."""

_STATUS = {"success": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "KILLED"}


class MLFlowLog(ExperimentLog):
    """Log of a run in a tracking server of MLflow or a local database.

    Args:
        folder: The run folder.
        name: Name of the run.
        group: The experiment of the run, as the tag ``group``.
        job_type: What distinguishes the runs of a group, as the tag ``job_type``.
        tracking_uri: Address of the tracking server, or ``sqlite:///`` with the path of a database.
        project: Name of the experiment of MLflow.
        tags: Labels of the run; empty ones are left out.
        notes: Description of the run.
        log_model: Whether the model folder is logged as an artifact.

    Raises:
        UserError: If MLflow is not installed, or the server or the database does not respond.
    """

    has_media = True

    def __init__(
        self,
        folder: str,
        name: str,
        group: str,
        job_type: str,
        tracking_uri: str,
        project: str = "moleflow",
        tags: Sequence[str | None] = (),
        notes: str | None = None,
        log_model: bool = True,
    ) -> None:
        labels = {
            RUN_ID_TAG: run_id(Path(folder)),
            "group": group,
            "job_type": job_type,
            "labels": ", ".join(tag for tag in tags if tag),
        }
        if notes:
            labels["mlflow.note.content"] = notes
        for library in ("mlflow", "alembic"):  # creation of the database, and names of experiments that are created
            logging.getLogger(library).setLevel(logging.WARNING)
        logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
        try:
            existing = _find_run(tracking_uri, project, labels[RUN_ID_TAG])
            logger = MLFlowLogger(
                project, run_name=name, tracking_uri=tracking_uri, tags=labels, run_id=existing, synchronous=True
            )
            self.mlflow_id = str(logger.run_id)
            if existing:
                logger.experiment.update_run(existing, status="RUNNING")
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=mlflow needs a package that is not installed. Run: pip install 'moleflow[mlflow]'"
            ) from error
        except _mlflow_errors() as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"logger.mlflow.tracking_uri={tracking_uri} cannot be used: {reason} Set the address of a tracking "
                "server, or sqlite:///mlflow.db."
            ) from error
        super().__init__(logger)
        self._client = logger.experiment
        self._log_model = log_model

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log scalars; characters that MLflow does not accept in keys are replaced by their code points."""
        super().log_metrics({valid_key(key): value for key, value in values.items()}, step)

    def log_images(self, images: Mapping[str, LogImage], step: int) -> None:
        """Log images by key and step; files as artifacts."""
        for key, image in images.items():
            if isinstance(image, Image.Image):
                self._client.log_image(self.mlflow_id, image, key=valid_key(key), step=step, synchronous=True)
            else:
                self._client.log_artifact(self.mlflow_id, str(image), key.rpartition("/")[0] or None)

    def log_tables(self, tables: Mapping[str, Table], step: int) -> None:
        """Log the tables as CSV artifacts, in place of those of earlier steps."""
        for key, table in tables.items():
            file = io.StringIO()
            csv.writer(file).writerows([table.columns, *table.rows])
            self._client.log_text(self.mlflow_id, file.getvalue(), f"{key}.csv")

    def log_results(self, metrics: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """Log ``metrics.json`` as an artifact."""
        self._client.log_dict(self.mlflow_id, dict(metrics), "metrics.json")

    def log_model(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Log the model folder as the artifact ``model``."""
        if self._log_model:
            self._client.log_artifacts(self.mlflow_id, str(folder), "model")

    def finish(self, status: str) -> None:
        """End the run with the status FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.mlflow_id, _STATUS[status])


def valid_key(key: str) -> str:
    """Return a key with the characters that MLflow accepts; others are replaced by their code points."""
    return re.sub(r"[^a-zA-Z0-9_/. -]", lambda match: f"_{ord(match[0]):x}_", key)


def _find_run(tracking_uri: str, project: str, identity: str) -> str | None:
    """Return MLflow's id of the run with an id of this package; None if there is none."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(project)
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], f"tags.`{RUN_ID_TAG}` = '{identity}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _mlflow_errors() -> tuple[type[Exception], ...]:
    """Return the errors of MLflow, once it is imported."""
    from mlflow.exceptions import MlflowException

    return (MlflowException,)
