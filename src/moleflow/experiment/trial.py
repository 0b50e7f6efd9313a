"""The trial of a search in its job: metrics after each task, by which the pruner ends it early."""

import optuna
from hydra.conf import HydraConf
from omegaconf import DictConfig

from moleflow.experiment.compose import Pruned
from moleflow.experiment.objective import intermediate_objective, objective_keys
from moleflow.experiment.search import make_pruner, open_storage
from moleflow.metrics.averaging import mean_over_categories
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.context import RunContext, TaskReport


class TrialCallback(RunCallback):
    """Stores the objective after each task in the study, and ends the run if the pruner decides so.

    The trial is found by the name of the study and its number, so that a job in any process and on any machine can
    report to it. Values that an earlier process of a resumed run has stored remain.

    Args:
        sweeper: The keys of ``conf/hydra/sweeper/optuna.yaml``, with the values that the sweeper has set.
        objective: The objective, a key of ``metrics.json``.
    """

    def __init__(self, sweeper: DictConfig, objective: str) -> None:
        self.objective = objective
        storage = open_storage(sweeper.storage)
        study = optuna.load_study(
            study_name=sweeper.study_name,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(),  # values are not sampled here
            pruner=make_pruner(sweeper.pruner),
        )
        study_id = storage.get_study_id_from_name(sweeper.study_name)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, sweeper.trial)
        self.trial = optuna.Trial(study, trial_id)
        self.stored = set(storage.get_trial(trial_id).intermediate_values)

    def on_task_evaluated(self, context: RunContext, report: TaskReport) -> None:
        """Store the objective on all categories so far.

        Raises:
            Pruned: If the pruner ends the trial; after the last task it cannot.
        """
        results = {category: result.all_metrics() for category, result in report.routed.items()}
        value = intermediate_objective(mean_over_categories(results), results, self.objective)
        step = report.task.index + 1
        if value is None:  # the objective is a metric of a category that is not trained yet
            return
        if step not in self.stored:
            self.trial.report(value, step)
        if step < len(context.tasks) and self.trial.should_prune():
            raise Pruned(
                f"The search has ended trial {self.trial.number} after task {step} of {len(context.tasks)}: "
                f"{self.objective}={value:.4f}."
            )


def trial_callbacks(hydra: DictConfig | HydraConf, objective: object) -> list[TrialCallback]:
    """Return the callback of a job that is the trial of a search with one objective; none for other jobs.

    Args:
        hydra: Hydra's own configuration.
        objective: The key ``objective`` of the configuration.
    """
    keys = objective_keys(objective)
    if hydra.sweeper.get("trial") is None or len(keys) > 1:
        return []
    return [TrialCallback(hydra.sweeper, keys[0])]
