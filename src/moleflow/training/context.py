"""Context of a run: everything that its tasks, callbacks and result files share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import lightning as L

from moleflow.data.datamodule import ImageDataModule
from moleflow.data.samples import Sample
from moleflow.data.tasks import Task, categories_of
from moleflow.detector.base import Detector
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.overrides import expert_overrides, task_epochs
from moleflow.detector.types import Overrides
from moleflow.evaluation.evaluator import CategoryResult, Evaluator
from moleflow.runs.progress import Progress
from moleflow.training.augmentation import AUTO
from moleflow.training.config import TrainingConfig
from moleflow.training.experiment_log.base import ExperimentLog
from moleflow.training.state import TaskCheckpoints
from moleflow.utils.errors import UserError


@dataclass(eq=False)
class RunContext:
    """State and collaborators of one run.

    Args:
        detector: The model that is trained, or an ensemble that is evaluated.
        data: The data module, set up.
        tasks: The tasks in order.
        config: How each task is trained.
        folder: The run folder.
        callbacks: Lightning callbacks, including :class:`~moleflow.training.callbacks.base.RunCallback` objects.
        logs: Logs of the run.
        command: The overrides of the command line, recorded in ``metrics.json``.
        oracle: Whether the true category chooses the expert in all evaluations.
        show_progress: Whether to show progress bars.

    Attributes:
        evaluator: Evaluates the detector on the test images.
        progress: Finished tasks, steps, times and the task matrix.
        overrides: The overrides of each expert, by its name.
        epochs: Epochs of each task.
        is_global_zero: Whether this process evaluates and writes; False in the workers of a data-parallel run.

    Raises:
        UserError: If ``per_category`` gives the categories of one expert different overrides, or the experts of one
            task different epochs; or a task replaces an expert of several categories, or has no training images.
    """

    detector: Detector
    data: ImageDataModule
    tasks: Sequence[Task]
    config: TrainingConfig
    folder: Path
    callbacks: list[L.Callback] = field(default_factory=list)
    logs: list[ExperimentLog] = field(default_factory=list)
    command: Sequence[str] = ()
    oracle: bool = False
    show_progress: bool = True

    def __post_init__(self) -> None:
        self.evaluator = Evaluator(self.detector, self.data, self.show_progress)
        self.progress = Progress()
        self.is_global_zero = True
        self.overrides = self._overrides()
        for task in self.tasks:
            self.replaced_experts(task)
            if task.visit:
                for category in task.categories:
                    self.training_samples(task, category)
        self.epochs = [
            task_epochs([self.overrides[name] for name in self.experts_of(task)], self.config.epochs)
            for task in self.tasks
        ]

    def _overrides(self) -> dict[str, Overrides]:
        return {
            name: expert_overrides(self.config.per_category, categories)
            for task in self.tasks
            for name, categories in self.experts_of(task).items()
        }

    def experts_with_automatic_augmentation(self) -> dict[str, Task]:
        """Return the first task of each expert whose augmentation is ``auto``, by its name."""
        return {
            name: task
            for task in self.tasks
            for name, categories in self.experts_of(task).items()
            if not task.visit and self.config.augmentation_of(categories) == AUTO
        }

    def set_augmentations(self, augmentations: Mapping[str, str]) -> None:
        """Replace the augmentation of experts, also of those that their categories get when they return.

        Args:
            augmentations: Augmentation by expert.
        """
        per_category = dict(self.config.per_category)
        for task in self.tasks:
            for name, categories in self.experts_of(task).items():
                if name in augmentations:
                    overrides = {**self.overrides[name], "augmentation": augmentations[name]}
                    per_category |= dict.fromkeys(categories, overrides)
        self.config = replace(self.config, per_category=per_category)
        self.overrides = self._overrides()

    def set_recorded_augmentations(self, progress: Progress) -> None:
        """Replace the augmentation of experts for which it is ``auto`` by an earlier choice.

        Args:
            progress: The progress with the choices.
        """
        automatic = self.experts_with_automatic_augmentation()
        choices = {name: str(each["augmentation"]) for name, each in progress.augmentations.items()}
        self.set_augmentations({name: choices[name] for name in automatic if name in choices})

    @property
    def model(self) -> MoLEFlow:
        """The detector as a single trainable model."""
        assert isinstance(self.detector, MoLEFlow)
        return self.detector

    @property
    def categories(self) -> list[str]:
        """All categories in order of arrival."""
        return categories_of(self.tasks)

    @property
    def state(self) -> Path:
        """Folder of the files that an unfinished run is resumed from."""
        return self.folder / "state"

    def experts_of(self, task: Task) -> dict[str, tuple[str, ...]]:
        """Return the categories of each expert of a task, by the expert's name."""
        return self.config.experts_of(task)

    def replaced_experts(self, task: Task) -> list[str]:
        """Return the names of the earlier experts that a finished task replaces.

        Raises:
            UserError: If one of them has other categories as well.
        """
        if not task.visit or self.config.returns.action == "add":
            return []
        first = {
            name: categories
            for earlier in self.tasks[: task.index]
            if not earlier.visit
            for name, categories in self.experts_of(earlier).items()
            if set(categories) & set(task.categories)
        }
        for name, categories in first.items():
            if categories != task.categories:
                raise UserError(
                    f"scenario.on_return={self.config.returns.action} cannot replace the expert {name}, which has "
                    f"other categories than "
                    f"{task.categories[0]} as well. Set scenario.experts=category."
                )
        return list(first)

    def continued_expert(self, task: Task) -> str | None:
        """Return the name of the earlier expert that the expert of a task continues, or None."""
        return self.replaced_experts(task)[0] if task.visit and self.config.returns.action == "update" else None

    def experts_after(self, tasks_done: int) -> list[str]:
        """Return the names of the experts after a number of tasks, without those that were replaced."""
        done = self.tasks[:tasks_done]
        replaced = {name for task in done for name in self.replaced_experts(task)}
        return [name for task in done for name in self.experts_of(task) if name not in replaced]

    def training_samples(self, task: Task, category: str) -> list[Sample]:
        """Return the training images of a category in one task.

        Raises:
            UserError: If a category that returns has too few.
        """
        return self.config.returns(self.data.split(category)[0], task.visit)

    def checkpoints(self, task: Task) -> TaskCheckpoints:
        """Return the epoch checkpoints of a task."""
        return TaskCheckpoints(self.state, task.index)

    def task_label(self, task: Task) -> str:
        """Return the task's label for log messages."""
        return f"task {task.index + 1}/{len(self.tasks)} {task.name}"

    def evaluate(self, categories: Sequence[str], title: str) -> dict[str, CategoryResult]:
        """Return the results of categories, by the router's choice or, with ``oracle``, by the true category.

        Args:
            categories: The categories, all trained.
            title: Title of the progress bar.
        """
        evaluate = self.evaluator.oracle if self.oracle else self.evaluator.routed
        return evaluate(categories, title)


@dataclass(eq=False)
class TaskReport:
    """Results after one task.

    Attributes:
        task: The task.
        history: One entry per epoch: means of the loss and its terms.
        routed: Results of all categories so far, scored by the router's choice.
    """

    task: Task
    history: list[dict[str, float]]
    routed: dict[str, CategoryResult]
