"""Continual trainer, which trains, saves and evaluates task by task and resumes interrupted runs."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict

from moleflow.data.duplicates import too_few_training_images
from moleflow.data.findings import summarize
from moleflow.data.groups import group_indices
from moleflow.data.samples import SPLITS, Sample
from moleflow.data.tasks import Task, categories_of
from moleflow.data.validation import dataset_findings
from moleflow.detector.feature_set import FIRST
from moleflow.detector.store import ModelStore
from moleflow.evaluation.evaluator import CategoryResult
from moleflow.features.extractor import FeatureExtractor
from moleflow.runs.identity import weights_sources
from moleflow.runs.progress import Progress
from moleflow.training.augmentation import choose_augmentation
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.context import RunContext, TaskReport
from moleflow.training.experiment_log.base import log_history
from moleflow.training.state import load_strategy_state, num_values, prune_strategy_state, save_strategy_state
from moleflow.training.task import TrainerFactory, train_task
from moleflow.training.task_result import StoredTaskResult, TaskResult
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator

log = logging.getLogger(__name__)


class ContinualTrainer:
    """Trains the tasks of a run one after another and evaluates the detector after each.

    Each finished task and epoch is written at once. An interrupted run resumes with the first unfinished task, by
    ``state/progress.json`` and the model folder, and within this task after the last epoch that has a checkpoint.

    Args:
        context: The run.
        make_trainer: Builds the Lightning trainer of one task.

    Attributes:
        prefetch_tasks: Function that trains tasks after the first in other processes before they are loaded. Each
            process writes a :class:`StoredTaskResult`. None: tasks are trained one after another in this process.
        training_started: Whether all images were read, so that the first task was begun or a run resumed.

    Raises:
        UserError: If the continual strategy has no effect on the model.
    """

    def __init__(self, context: RunContext, make_trainer: TrainerFactory) -> None:
        self.context = context
        self.make_trainer = make_trainer
        self.prefetch_tasks: Callable[[Sequence[Task]], None] | None = None
        self.training_started = False
        context.config.strategy.check(context.model.patch_model)

    def run(self) -> dict[str, CategoryResult]:
        """Train and evaluate all unfinished tasks.

        Returns:
            The results by category after the last task. Empty in all processes of a data-parallel run but the first.

        Raises:
            UserError: If an image cannot be read, or a loss or a score is not finite.
        """
        context = self.context
        context.progress = Progress.read(context.state / "progress.json")
        if context.progress.tasks_done > len(context.tasks):
            raise UserError(
                f"{context.state / 'progress.json'}: tasks_done is {context.progress.tasks_done} and must be at most "
                f"{len(context.tasks)}, the number of tasks. Restore the file, or start again in a new folder."
            )
        context.set_recorded_augmentations(context.progress)
        if context.progress.tasks_done:
            log.info("Resuming after task %d of %d.", context.progress.tasks_done, len(context.tasks))
            self.restore(context.progress.tasks_done)
        self._extract_features()
        self.training_started = True
        self._warn_of_shared_experts()
        if not context.progress.tasks_done:
            self._run_task(context.tasks[0])
        if self.prefetch_tasks is not None:
            with context.progress.clock("training"):
                self.prefetch_tasks(context.tasks[context.progress.tasks_done :])
        for task in context.tasks[context.progress.tasks_done :]:
            self._run_task(task)
        return context.evaluate(context.categories, "evaluate") if context.is_global_zero else {}

    def restore(self, tasks_done: int) -> None:
        """Load the base, the experts of the first tasks and the state of the continual strategy.

        Args:
            tasks_done: Number of tasks whose experts are loaded.

        Raises:
            UserError: If a file is missing or damaged, or an unfinished task has changed the base and its checkpoint is
                missing.
        """
        context = self.context
        trained = context.experts_after(tasks_done)
        folder = context.folder / "model"
        manifest = ModelStore(folder).manifest()
        saved = {str(entry["name"]) for entry in manifest["experts"]}
        # The manifest lists more experts than progress.json counts if the run was killed after it had written the
        # model folder and before it wrote progress.json.
        started = {name for task in context.tasks[tasks_done:] for name in context.experts_of(task)}
        if (
            saved & started
            and context.model.patch_model.updates_shared_weights
            and context.checkpoints(context.tasks[tasks_done]).latest() is None
        ):
            raise UserError(
                f"The base in {folder} was already changed by task {tasks_done + 1}, and the checkpoint of that task "
                "is missing or damaged. Start again in a new folder with hydra.run.dir=..."
            )
        context.model.restore(folder, trained)
        state = load_strategy_state(context.state, context.progress.strategy_state)
        context.config.strategy.load({name: value.to(context.model.device) for name, value in state.items()})
        # The last task may have been killed before it removed an expert that it replaced, and weights may have moved.
        weights_moved = weights_sources(manifest["settings"]) != weights_sources(context.model.settings)
        if tasks_done == len(context.tasks) and (saved != set(trained) or weights_moved):
            context.model.save(folder)

    def train_task(self, task: Task) -> TaskResult:
        """Train one task in this process."""
        return train_task(self.context, task, self.make_trainer)

    def _extract_features(self) -> None:
        """Compute all features and read all masks, so that an unreadable file ends the run at its start."""
        context, model = self.context, self.context.model
        training = {category: context.data.split(category)[0] for category in context.categories}
        samples = [s for c in context.categories for split in SPLITS for s in context.data.samples(split, c)]
        for finding in too_few_training_images([s for c in training.values() for s in c], model.extractor.cache.key):
            raise UserError(finding.message)
        for finding in summarize(dataset_findings(context.data, model.extractor.cache.key)):
            log.log(logging.INFO if finding.severity == "note" else logging.WARNING, "%s", finding.message)
        with context.progress.clock("features"):
            self._extract(model.extractor, samples, "features")
            self._choose_augmentations()
            for feature_set in model.feature_sets.values():
                label = "features" if feature_set.is_first else f"features {feature_set.name}"
                for category in context.categories:
                    overrides = context.config.per_category.get(category, {})
                    extractor = feature_set.extractor(overrides)
                    if extractor is not model.extractor:
                        of_category = [sample for sample in samples if sample.category == category]
                        self._extract(extractor, of_category, f"{label} {category}")
                    for augmentation in context.config.augmentations_of([category]):
                        augmented = feature_set.extractor(overrides, augmentation)
                        self._extract(augmented, training[category], f"{label} {category} {augmentation}")

    def _choose_augmentations(self) -> None:
        """Choose the augmentation of each expert with ``augmentation=auto`` from its training images."""
        context = self.context
        for name, task in context.experts_with_automatic_augmentation().items():
            categories = context.experts_of(task)[name]
            samples = [sample for category in categories for sample in context.training_samples(task, category)]
            choice = choose_augmentation(
                context.model.feature_sets[FIRST],
                context.overrides[name],
                [sample.path for sample in samples],
                group_indices(samples),
                context.model.components.postprocessor(context.overrides[name]).image_scores,
                generator(context.config.seed, "augmentation", name),
            )
            context.progress.augmentations[name] = asdict(choice)
            context.set_augmentations({name: choice.augmentation})
            log.info("Augmentation of %s: %s.", name, choice)

    def _extract(self, extractor: FeatureExtractor, samples: Sequence[Sample], title: str) -> None:
        loader = self.context.data.loader(
            extractor.missing(samples), transform=extractor.transform, batch_size=extractor.batch_size
        )
        extractor.extract(loader, title if self.context.show_progress else None)

    def _warn_of_shared_experts(self) -> None:
        context = self.context
        shared = [task.name for task in context.tasks if len(task.categories) > len(context.experts_of(task))]
        if shared and not context.model.patch_model.updates_shared_weights:
            log.warning(
                "Several categories share one expert (%s), as in the recorded runs. scenario.experts=category gives "
                "each category its own expert.",
                ", ".join(shared),
            )

    def _run_task(self, task: Task) -> None:
        """Train a task, or load the result of another process, then save, evaluate and report."""
        context = self.context
        stored = StoredTaskResult(context.state, task.index)
        result = stored.load_into(context.model)
        if result is None:
            result = self.train_task(task)
        else:
            log_history(context.logs, task.index, result.history, context.progress.step, result.steps)
        if context.model.patch_model.updates_shared_weights:
            context.evaluator.clear()
        self._finish_task(task, result)
        stored.clear()

    def _finish_task(self, task: Task, result: TaskResult) -> None:
        """Update the progress counters, then save and evaluate the detector and call the callbacks.

        In a data-parallel run all processes update the counters, and only the first writes files and evaluates.
        """
        context, progress = self.context, self.context.progress
        progress.tasks_done += 1
        progress.step += result.steps
        progress.skipped_steps.append(result.skipped_steps)
        progress.histories.append(result.history)
        replaced = context.replaced_experts(task)
        if context.is_global_zero:
            context.model.save(context.folder / "model")  # with the replaced experts, for a resumed run
        for name in replaced:
            context.model.remove_expert(name)
        if not context.is_global_zero:
            return
        categories = categories_of(context.tasks[: task.index + 1])
        with progress.clock("evaluation"):
            routed = context.evaluate(categories, f"evaluate {task.index + 1}/{len(context.tasks)}")
        progress.matrix.add(
            task.index,
            {category: result.all_metrics() for category, result in routed.items()},
            [each.categories for each in context.tasks],
        )
        report = TaskReport(task, result.history, routed)
        for callback in context.callbacks:
            if isinstance(callback, RunCallback):
                callback.on_task_evaluated(context, report)
        state = context.config.strategy.state()
        progress.strategy_state = save_strategy_state(context.state, task.index, state)
        progress.strategy_values = num_values(state)
        progress.write(context.state / "progress.json")
        prune_strategy_state(context.state, progress.strategy_state)
        context.checkpoints(task).clear()
        if replaced:
            context.model.save(context.folder / "model")
