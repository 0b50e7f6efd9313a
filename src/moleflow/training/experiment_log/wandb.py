"""Log of a run in Weights & Biases, online or offline."""

import logging
import os
import re
import secrets
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

from moleflow.runs.reader import load_config
from moleflow.training.experiment_log.base import (
    RUN_ID_FILE,
    ExperimentLog,
    LogImage,
    Scalar,
    Table,
    nested_value,
    run_id,
    write_run_id,
)
from moleflow.utils.errors import UserError
from moleflow.utils.io import shorten_name

STEP = "trainer/global_step"
"""The step axis of all values, as Lightning's logger names it."""

_MAX_TAG = 64  # characters; W&B rejects longer tags
_TIMEOUT = 5  # seconds until a server counts as unreachable

log = logging.getLogger(__name__)


class WandbLog(ExperimentLog):
    """Log of a run in Weights & Biases.

    The run is logged offline, below the run folder, if there is no account, no connection, or W&B rejects the key or
    the project; ``wandb sync`` uploads it later. There is no prompt, and no state of the account is an error.

    Args:
        folder: The run folder.
        name: Name of the run.
        group: W&B group: the experiment.
        job_type: W&B job type: the seed.
        project: W&B project.
        entity: W&B user or team; None is the account's default.
        tags: W&B tags; empty ones are left out.
        notes: Description of the run.
        log_model: Whether the model folder is logged as an artifact.
        objective: Dotted key of ``metrics.json`` that decides which model has the alias ``best``; the first of several.
    """

    has_media = True

    def __init__(
        self,
        folder: str,
        name: str,
        group: str,
        job_type: str,
        project: str = "moleflow",
        entity: str | None = None,
        tags: Sequence[str | None] = (),
        notes: str | None = None,
        log_model: bool = True,
        objective: str | Sequence[str] = "pixel_ap",
    ) -> None:
        self.run = open_run(
            Path(folder), run_id(Path(folder)),
            name=shorten_name(name), group=group, job_type=job_type, project=project, entity=entity, notes=notes,
            tags=list(dict.fromkeys(tag[:_MAX_TAG] for tag in tags if tag)),
        )  # fmt: skip
        if os.environ.get("WANDB_SWEEP_ID"):  # the agent determines the id
            write_run_id(Path(folder), self.run.id)
        self.run.define_metric("*", step_metric=STEP)
        super().__init__(WandbLogger(experiment=self.run))
        self._group = group
        self._log_model = log_model
        self._objective = objective if isinstance(objective, str) else objective[0]

    def log_images(self, images: Mapping[str, LogImage], step: int) -> None:
        """Log images by key."""
        self.run.log({key: _wandb_image(image) for key, image in images.items()} | {STEP: step})

    def log_tables(self, tables: Mapping[str, Table], step: int) -> None:
        """Log tables by key."""
        content = {key: _wandb_table(table) for key, table in tables.items()}
        self.run.log(content | {STEP: step})

    def log_results(self, metrics: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """Set the summary to ``metrics.json`` without the epochs and the task matrix, which are logged already."""
        self.run.summary.update({key: v for key, v in metrics.items() if key not in ("training", "task_matrix")})

    def log_model(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Log the model folder as a version of the artifact of the experiment.

        Its aliases are ``latest``, the run's id, and online also ``best`` if no version so far has a higher objective.
        Offline the other versions are not known.
        """
        if not self._log_model:
            return
        value = nested_value(metrics, self._objective)
        artifact = wandb.Artifact(
            artifact_name(self._group), "model", metadata={"run_id": self.run.id, self._objective: value}
        )
        artifact.add_dir(str(folder), policy="immutable", skip_cache=True)  # without a copy in W&B's cache
        aliases = ["latest", self.run.id]
        models = f"{self.run.entity}/{self.run.project}/{artifact.name}"
        if not self.run.offline and is_best(models, self._objective, value):
            aliases.append("best")
        self.run.log_artifact(artifact, aliases=aliases)

    def finish(self, status: str) -> None:
        """Close the run; its exit code is 0 after success and for a pruned trial of a search, else 1."""
        super().finish(status)
        self.run.finish(exit_code=0 if status in ("success", "pruned") else 1)


def is_best(models: str, objective: str, value: float | None) -> bool:
    """Return whether no version of an artifact has a higher objective.

    Args:
        models: Entity, project and name of the artifact.
        objective: Key of the metadata of each version.
        value: The objective of the new version; None if it has none.
    """
    if value is None:
        return False
    try:
        best = wandb.Api().artifact(f"{models}:best")
    except (wandb.Error, ValueError):  # there is none yet
        return True
    other = best.metadata.get(objective)
    return not isinstance(other, int | float) or value >= other


def training_log(folder: Path) -> dict[str, Any]:
    """Return the settings of a run's log in W&B.

    Args:
        folder: The run folder.

    Raises:
        UserError: If it is not the folder of a run that was logged in W&B.
    """
    logger = load_config(folder).get("logger") if (folder / "config.yaml").is_file() else None
    settings = logger.get("wandb") if isinstance(logger, Mapping) else None
    if not isinstance(settings, Mapping) or not (folder / RUN_ID_FILE).is_file():
        raise UserError(
            f"{folder} is not the folder of a run with logger=wandb. Leave out --wandb, or name such a run."
        )
    return dict(settings)


def log_predictions(folder: Path, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Scalar]]) -> None:
    """Log predictions as a W&B run that uses the model artifact of a training run.

    Offline the two are not linked, because the artifact is not uploaded yet; the configuration has its name.

    Args:
        folder: The run folder of the training.
        settings: Result of :func:`training_log`.
        rows: The predictions, with equal keys.
    """
    model = f"{artifact_name(str(settings['group']))}:{run_id(folder)}"
    run = open_run(
        Path.cwd(), secrets.token_hex(8),
        name=f"predict {settings['name']}", group=settings["group"], job_type="predict",
        project=settings["project"], entity=settings["entity"],
    )  # fmt: skip
    run.config.update({"model": model})
    if not run.offline:
        try:
            run.use_artifact(model, type="model")
        except (wandb.Error, ValueError) as error:
            log.warning("The predictions are not linked to the model %s: %s", model, _first_sentence(error))
    table = Table(list(rows[0]), [list(row.values()) for row in rows])
    run.log({"predictions": _wandb_table(table)})
    run.summary.update({f"verdicts/{verdict}": n for verdict, n in Counter(row["verdict"] for row in rows).items()})
    run.finish()


def open_run(folder: Path, identity: str, **arguments: Any) -> Any:
    """Return a W&B run, offline with a warning if W&B does not accept it online.

    Args:
        folder: The folder of the files.
        identity: The run's id; that of a sweep's agent has priority.
        arguments: Arguments of :func:`wandb.init`.
    """
    wandb.setup(settings=wandb.Settings(silent=True))
    settings = wandb.Settings(silent=True, init_timeout=6 * _TIMEOUT)
    if os.environ.get("WANDB_SWEEP_ID"):  # the agent determines id, project and entity
        arguments |= {"project": None, "entity": None}
    else:
        arguments |= {"id": identity}
    arguments |= {"dir": str(folder), "settings": settings}
    mode = os.environ.get("WANDB_MODE")
    if mode not in (None, "online", "shared"):
        return wandb.init(mode=mode, **arguments)  # type: ignore[arg-type]
    reason = offline_reason()
    if reason is None:
        try:
            return wandb.init(mode="online", resume=None if "id" not in arguments else "allow", **arguments)
        except (wandb.Error, TimeoutError) as error:
            reason = f"W&B does not accept the run: {' '.join(str(error).split()).rstrip('.')}."
            wandb.teardown()
    log.warning(
        "%s The run is logged offline; upload it with `wandb sync %s`.", reason, folder / "wandb" / "offline-run-*"
    )
    return wandb.init(mode="offline", **arguments)


def offline_reason() -> str | None:
    """Return the reason why this machine cannot log online; None if it can.

    The connection is tried for five seconds before the key is verified, because the client of W&B itself repeats
    failed requests for longer.
    """
    address = wandb.setup(settings=wandb.Settings(silent=True)).settings.base_url
    try:
        has_key = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        return f"The W&B key is not valid: {_first_sentence(error)}"
    if not has_key:
        return "This machine has no W&B account."
    try:
        urllib.request.urlopen(address, timeout=_TIMEOUT).close()
    except urllib.error.HTTPError:
        pass  # the server responds
    except OSError as error:
        return f"{address} cannot be reached: {getattr(error, 'reason', error)}."
    try:
        wandb.Api(timeout=2 * _TIMEOUT).viewer  # noqa: B018
    except (wandb.Error, ValueError) as error:
        return f"W&B does not accept the key: {_first_sentence(error)}"
    return None


def artifact_name(group: str) -> str:
    """Return the name of the artifact with the models of an experiment.

    Args:
        group: The experiment; characters that W&B does not accept are replaced.
    """
    return shorten_name(f"model-{re.sub(r'[^A-Za-z0-9_.-]', '_', group)}")


def _first_sentence(error: Exception) -> str:
    return f"{' '.join(str(error).split()).split('. ')[0].rstrip('.')}."


def _wandb_image(image: LogImage) -> wandb.Image:
    return wandb.Image(str(image)) if isinstance(image, Path) else wandb.Image(image, file_type="jpg")


def _wandb_table(table: Table) -> wandb.Table:
    columns: list[str | int] = [*table.columns]
    return wandb.Table(columns, [list(row) for row in table.rows])
