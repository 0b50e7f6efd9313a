"""Search with Optuna: trials of a study as jobs of Hydra's launcher, resumable from the storage of the study."""

import logging
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from moleflow.experiment.compose import PRUNED, JobError
from moleflow.experiment.failed_job import failed_job
from moleflow.experiment.objective import check_intermediate_objective, objective_keys
from moleflow.runs.naming import identity_overrides, run_label
from moleflow.runs.searches import SearchRecord
from moleflow.runs.searches import Trial as TrialRecord
from moleflow.utils.errors import UserError, check_choice, check_range
from moleflow.utils.io import file_lock

try:
    import optuna
    from optuna.distributions import FloatDistribution  # noqa: F401 (absent from Optuna 2)
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import TrialState
except ImportError:
    raise JobError("hydra/sweeper=optuna needs Optuna 4 or newer. Run: pip install 'moleflow[sweep]'") from None

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30
"""Seconds between two heartbeats of a sweeper, which are times in the study."""
GRACE_SECONDS = 150
"""Seconds without a heartbeat after which another sweeper takes over the trials of a sweeper."""

_MIN_IMPORTANCE_TRIALS = 4
_MAX_BEST = 10  # trials of the Pareto front in the summary
_SQLITE_SECONDS = 60  # that a process waits for another one's transaction


class Search:
    """Runs the trials of a study until it has ``n_trials``.

    The study is in a database. A command that is killed is resumed by the same command, and several machines can run
    the same command at the same time: a trial belongs to the sweeper that has started it, and is started again, under
    its number, by another sweeper if that one has died. As the job resumes its run folder, no finished task is lost.

    Args:
        hydra_context: Context of Hydra.
        task_function: The function that runs a job.
        config: The configuration, with Hydra's own.
        settings: The keys of ``conf/hydra/sweeper/optuna.yaml``.

    Raises:
        JobError: If a setting is invalid.
    """

    def __init__(
        self, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig, **settings: Any
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = config
        self.hydra_context = hydra_context
        self.settings = settings
        self.runs = Path(config.hydra.sweep.dir).resolve()
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)
        self._id = uuid.uuid4().hex
        self._jobs = self._failed = 0
        with _job_errors():
            self.objectives = objective_keys(config.objective)
            self.directions = self._check_settings()
            self.pruner = make_pruner(settings["pruner"])

    def run(self, arguments: Sequence[str]) -> None:
        """Run trials until the study has ``n_trials``, and write the record of the search after each batch.

        Args:
            arguments: Overrides of the command line.

        Raises:
            JobError: If the search space is invalid, or the study is that of another search.
        """
        from moleflow.experiment.search_space import SearchSpace

        with _job_errors():
            params = [f"{key}={value}" for key, value in (self.settings["params"] or {}).items()]
            self.space = SearchSpace([*params, *arguments], self.hydra_context.config_loader)
            self.sampler = _TrialSampler(self.settings["sampler"], self.space)
            for values in self.space.examples():  # an unknown key or option ends the search before its first trial
                self.hydra_context.config_loader.load_sweep_config(self.config, self.space.overrides(values))
            with self._locked():
                self.storage, self.study = self._open_study()
            with self._heartbeats():
                while trials := self._next_trials():
                    for trial, result in zip(trials, self._launch(trials), strict=True):
                        self._tell(trial, result)
                    self.record().write(self.runs)
        self._print_summary(self.record())

    def record(self) -> SearchRecord:
        """Return the record of the search."""
        trials = self.study.get_trials(deepcopy=False)
        return SearchRecord(
            study=self.study.study_name,
            objectives=self.objectives,
            directions=self.directions,
            sampler=self.sampler.name,
            pruner=type(self.pruner).__name__,
            space=self.space.describe(),
            trials=[
                TrialRecord(
                    number=trial.number,
                    state={"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
                    values=list(trial.values or ()) if trial.state == TrialState.COMPLETE else [],
                    params=trial.params,
                    tasks={str(step): value for step, value in trial.intermediate_values.items()},
                    folder=trial.user_attrs.get("folder", ""),
                )
                for trial in trials
            ],
            importance={key: self._importance(i) for i, key in enumerate(self.objectives)},
        )

    def _check_settings(self) -> list[str]:
        """Return the direction of each objective.

        Raises:
            UserError: If a setting is invalid, or the objective does not go together with the pruner.
        """
        for key in ("n_trials", "n_jobs"):
            check_range(f"hydra.sweeper.{key}", self.settings[key], 1)
        direction = self.settings["direction"]
        directions = [direction] * len(self.objectives) if isinstance(direction, str) else list(direction)
        for each in directions:
            check_choice("hydra.sweeper.direction", each, ("maximize", "minimize"))
        if len(directions) != len(self.objectives):
            raise UserError(
                f"hydra.sweeper.direction={list(directions)} must be one direction, or one for each of the "
                f"{len(self.objectives)} metrics of objective={self.objectives}."
            )
        if not self.settings["pruner"]["_target_"].endswith(".NopPruner"):
            if len(self.objectives) > 1:
                raise UserError(
                    f"objective={self.objectives} has several metrics, between which no pruner can decide. Set "
                    "hydra/sweeper/pruner=none."
                )
            check_intermediate_objective(self.objectives[0])
        return directions

    def _locked(self) -> AbstractContextManager[Any]:
        """Hold an SQLite file for this process, so that another one neither creates it nor counts its trials."""
        path = sqlite_path(self._url())
        return nullcontext() if path is None else file_lock(path.with_name(f"{path.name}.lock"), wait=True)

    def _url(self) -> str:
        storage = self.settings["storage"] or str(self.runs / "searches.db")
        return storage if "://" in storage else f"sqlite:///{Path(storage).expanduser().resolve()}"

    def _open_study(self) -> tuple[RDBStorage, optuna.Study]:
        """Return the storage and the study, which is created if it does not exist.

        Raises:
            UserError: If the storage cannot be opened, or the study is that of another search.
        """
        url, fixed = self._url(), self.space.fixed
        swept = set(self.space.distributions)
        seed = () if "seed" in swept else (f"seed{self.config.seed}",)
        name = self.settings["study_name"] or "/".join((str(self.config.name), run_label(fixed), *seed))
        storage = open_storage(url)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=None if self._exists(storage, name) else self.directions,
            sampler=self.sampler,
            pruner=self.pruner,
            load_if_exists=True,
        )
        identity = {
            "objective": self.objectives,
            "hydra.sweeper.direction": self.directions,
            "overrides": sorted(identity_overrides(fixed)),
            "search space": self.space.describe(),
        }
        recorded = study.user_attrs.get("identity", identity)
        for key, value in identity.items():
            if recorded[key] != value:
                raise UserError(
                    f"The study {name} in {shown_url(url)} is another search, with {key} {recorded[key]} in place of "
                    f"{value}. Choose another name with hydra.sweeper.study_name=..."
                )
        study.set_user_attr("identity", identity)
        return storage, study

    @staticmethod
    def _exists(storage: RDBStorage, name: str) -> bool:
        return name in optuna.get_all_study_names(storage)

    @contextmanager
    def _heartbeats(self) -> Iterator[None]:
        """Write the time into the study at regular intervals until the end of the block."""
        ended = threading.Event()

        def write() -> None:
            while True:
                try:
                    self.study.set_user_attr(f"sweeper {self._id}", time.time())
                except Exception as error:  # of the database, which may be reachable again at the next time
                    log.warning("The heartbeat of this sweeper cannot be written: %s", error)
                if ended.wait(HEARTBEAT_SECONDS):
                    return

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _next_trials(self) -> list[optuna.Trial]:
        """Return the next trials: those of sweepers that have died, then new ones; none at the end of the search."""
        with self._locked():
            trials = self.study.get_trials(deepcopy=False)
            abandoned = [trial for trial in trials if trial.state == TrialState.RUNNING and self._is_abandoned(trial)]
            study_id = self.storage.get_study_id_from_name(self.study.study_name)
            for trial in abandoned:
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
                self.storage.set_trial_state_values(trial_id, TrialState.WAITING)
            waiting = len(abandoned) + sum(trial.state == TrialState.WAITING for trial in trials)
            counted = sum(trial.state != TrialState.FAIL for trial in trials) + self._failed
            new = 0 if self.sampler.exhausted else self.settings["n_trials"] - counted
            batch = []
            for _ in range(min(self.settings["n_jobs"], waiting + max(0, new))):
                trial = self.study.ask(self.space.distributions)
                trial.set_user_attr("sweeper", {"id": self._id, "host": socket.gethostname(), "process": os.getpid()})
                batch.append(trial)
            return batch

    def _is_abandoned(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether the sweeper of a running trial has died."""
        owner = trial.user_attrs.get("sweeper")
        if owner is None:  # it died between two transactions, for which it holds an SQLite file
            if sqlite_path(self._url()) is not None:
                return True
            started = cast(datetime, trial.datetime_start).timestamp()
            return time.time() - started > GRACE_SECONDS
        if owner["id"] == self._id:
            return False
        if owner["host"] == socket.gethostname() and not _is_running(owner["process"]):
            return True
        last = float(self.study.user_attrs.get(f"sweeper {owner['id']}", 0))
        return time.time() - last > GRACE_SECONDS

    def _launch(self, trials: Sequence[optuna.Trial]) -> Sequence[JobReturn]:
        """Run the jobs of trials.

        If the launcher ends with an error, as some do if one of their workers is killed, the jobs are launched again
        one by one: finished runs return at once, and only the job that kills its worker fails.
        """
        first, self._jobs = self._jobs, self._jobs + len(trials)
        overrides = [self._job_overrides(trial) for trial in trials]
        try:
            return self.launcher.launch(overrides, initial_job_idx=first)
        except JobError:  # the launcher is not installed or has an invalid setting; the trials are resumed
            raise
        except Exception as error:
            if len(trials) == 1:
                return [failed_job(self.hydra_context, self.config, overrides[0], first, error)]
            print(f"The launcher ended with an error. Its jobs are launched again one by one: {error}", flush=True)
            return [self._launch([trial])[0] for trial in trials]

    def _job_overrides(self, trial: optuna.Trial) -> list[str]:
        """Return the overrides of a trial's job, with those by which the job finds the trial."""
        place = {"storage": self._url(), "study_name": self.study.study_name}
        return [
            *self.space.overrides(trial.params),
            f"hydra.sweeper.trial={trial.number}",
            *(f"hydra.sweeper.{key}={QuotedString(text, Quote.single).with_quotes()}" for key, text in place.items()),
        ]

    def _tell(self, trial: optuna.Trial, result: JobReturn) -> None:
        """Store the result of a trial; a trial without a finite value of each objective has failed."""
        if result.hydra_cfg is not None:
            folder = os.path.relpath(OmegaConf.select(result.hydra_cfg, "hydra.runtime.output_dir"), self.runs)
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # by a sweeper that has taken it over
                trial.set_user_attr("folder", folder)
        value = result._return_value if result.status == JobStatus.COMPLETED else None
        if value == PRUNED:
            self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
            return
        values = value if isinstance(value, list) else [value]
        if all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            self.study.tell(trial, values, skip_if_finished=True)
        else:
            self._failed += 1
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _importance(self, objective: int) -> dict[str, float]:
        """Return the importance of each key by PED-ANOVA (Watanabe et al., 2023); empty with too few trials."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len({trial.values[objective] for trial in complete}) < _MIN_IMPORTANCE_TRIALS:
            return {}
        sign = -1 if self.directions[objective] == "maximize" else 1  # the evaluator explains low values
        with _ignored_warnings():
            importance = optuna.importance.get_param_importances(
                self.study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=lambda trial: sign * trial.values[objective],
            )
        return {key: float(value) for key, value in importance.items()}

    def _print_summary(self, record: SearchRecord) -> None:
        states = [trial.state for trial in record.trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
        print(f"\nStudy {record.study}: {len(record.trials)} trials ({counts}) in {shown_url(self._url())}")
        for trial in record.best[: 1 if len(self.objectives) == 1 else _MAX_BEST]:
            values = ", ".join(f"{key}={value:.4f}" for key, value in zip(self.objectives, trial.values, strict=True))
            params = " ".join(f"{key}={value}" for key, value in trial.params.items())
            print(f"  best: trial {trial.number}, {values}, {params}")


class _TrialSampler(BaseSampler):  # type: ignore[misc]
    """A sampler whose generator depends on seed and number of the trial, in any process.

    A sampler of Optuna has one generator, which would begin anew in each command and on each machine and draw the same
    values again. With one generator per trial, a search that is resumed has the trials of an uninterrupted one.

    Args:
        config: Class and arguments of the sampler.
        space: The search space, of which a partial sampler gets the grid.

    Attributes:
        name: Name of the class.
        exhausted: Whether the sampler has tried all combinations.
    """

    def __init__(self, config: DictConfig, space: Any) -> None:
        self._config = config
        self._arguments = {"search_space": space.grid()} if config.get("_partial_") else {}
        self._sampler = self._make(0)
        self.name = type(self._sampler).__name__
        self.exhausted = False

    def _make(self, number: int) -> BaseSampler:
        config = cast(dict[str, Any], OmegaConf.to_container(self._config, resolve=True))
        config.pop("_partial_", None)
        # The seed of QMC selects the sequence, of which each trial is one point; that of a grid its order.
        if config.get("seed") is not None and not config["_target_"].endswith(("QMCSampler", "GridSampler")):
            config["seed"] = _trial_seed(config["seed"], number)
        with _ignored_warnings():
            return cast(BaseSampler, _instantiate("sampler", config, **self._arguments))

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Create the sampler of the trial."""
        self._sampler = self._make(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> Any:
        """Return the keys that are sampled jointly."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: Any) -> Any:
        """Return values of the keys that are sampled jointly."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, *arguments: Any) -> Any:
        """Return the value of a key that is sampled alone."""
        return self._sampler.sample_independent(*arguments)

    def after_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, state: Any, values: Any) -> None:
        """Update the sampler's state; at the end of a grid it stops the study, which Optuna permits in its own loop."""
        try:
            self._sampler.after_trial(study, trial, state, values)
        except RuntimeError:
            self.exhausted = True


def open_storage(url: str) -> RDBStorage:
    """Return the storage of a database.

    Raises:
        UserError: If the database cannot be opened.
    """
    from sqlalchemy.exc import SQLAlchemyError

    path = sqlite_path(url)
    arguments = {} if path is None else {"connect_args": {"timeout": _SQLITE_SECONDS}}
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        return RDBStorage(url, engine_kwargs=arguments)
    except (SQLAlchemyError, ImportError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"hydra.sweeper.storage={shown_url(url)} cannot be opened: {reason}. It must be an SQLite file, or the URL "
            "of a database whose Python driver is installed."
        ) from error


def shown_url(url: str) -> str:
    """Return the URL of a database without its password."""
    return re.sub(r"(?<=://)([^/@:]*):[^@]*@", r"\1:***@", url)


def sqlite_path(url: str) -> Path | None:
    """Return the file of an SQLite URL; None for other databases."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def make_pruner(config: DictConfig) -> optuna.pruners.BasePruner:
    """Return the pruner of a configuration.

    Raises:
        UserError: If it rejects its arguments.
    """
    with _ignored_warnings():
        return cast(optuna.pruners.BasePruner, _instantiate("pruner", config))


def _instantiate(kind: str, config: Any, **arguments: Any) -> Any:
    try:
        return instantiate(config, **arguments)
    except Exception as error:  # of any class that the user has named
        raise UserError(f"hydra/sweeper/{kind}: {error.__cause__ or error}") from error


def _trial_seed(seed: int, number: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _is_running(process: int) -> bool:
    """Return whether this machine has another process of an id."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _ignored_warnings() -> Iterator[None]:
    """Ignore the warnings of Optuna that a class is experimental."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _job_errors() -> Iterator[None]:
    """Raise errors of the user in the form that Hydra prints without a traceback."""
    try:
        yield
    except UserError as error:
        raise JobError(str(error)) from None
