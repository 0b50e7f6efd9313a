"""The continual sequence: learn a task, tell the router, save, evaluate, next task."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from moleflow.data import PictureDataModule, Sample, Split, Task
from moleflow.data.doubts import doubts
from moleflow.errors import UserError
from moleflow.model import MoLEFlow
from moleflow.own_settings import epochs_of, of_expert
from moleflow.store import ExpertStore
from moleflow.training.callbacks import RunCallback
from moleflow.training.checkpoints import TaskCheckpoints
from moleflow.training.evaluation import CategoryResult, Evaluator
from moleflow.training.held_out import hold_out
from moleflow.training.kept import count, drop_kept, read_kept, write_kept
from moleflow.training.learned import Learned, LearnedTask
from moleflow.training.learning import learn
from moleflow.training.loggers import log_history
from moleflow.training.progress import Progress
from moleflow.training.settings import TaskSettings

log = logging.getLogger(__name__)


@dataclass(eq=False)
class TaskReport:
    """What is known after a task.

    Attributes:
        task: The task.
        step: Optimizer steps of the run so far.
        history: One entry an epoch: means of the losses and their parts.
        routed: Results of all categories seen so far, scored by the router's choice.
    """

    task: Task
    step: int
    history: list[dict[str, float]]
    routed: dict[str, CategoryResult]


class TaskSequence:
    """Learns tasks one after another and measures what is known after each.

    What is finished is on disk at once, so a run that was stopped goes on where it was: at the task by
    ``state/progress.json`` and the model folder, inside the task at the last full epoch by its checkpoint.

    Args:
        model: The model to grow.
        data: Pictures; set up already.
        tasks: The tasks in order.
        settings: How each task is trained.
        folder: The run folder.
        make_trainer: Returns a trainer for one task from keyword arguments ``max_epochs`` and ``callbacks``.
        callbacks: Lightning callbacks, those of :class:`RunCallback` among them.
        loggers: Lightning loggers.
        oracle: Whether the true category picks the expert.
        show_progress: Whether to show progress bars.
    """

    def __init__(
        self,
        model: MoLEFlow,
        data: PictureDataModule,
        tasks: Sequence[Task],
        settings: TaskSettings,
        folder: Path,
        make_trainer: Callable[..., L.Trainer],
        callbacks: Sequence[L.Callback] = (),
        loggers: Sequence[Any] = (),
        oracle: bool = False,
        show_progress: bool = True,
    ) -> None:
        self.model = model
        self.data = data
        self.tasks = list(tasks)
        self.settings = settings
        self.folder = folder
        self.make_trainer = make_trainer
        self.callbacks = list(callbacks)
        self.loggers = list(loggers)
        self.show_progress = show_progress
        groups = {name: categories for task in self.tasks for name, categories in self.groups(task).items()}
        self.own = {name: of_expert(settings.per_category, categories) for name, categories in groups.items()}
        self.epochs = [
            epochs_of([self.own[name] for name in self.groups(task)], settings.epochs) for task in self.tasks
        ]
        self.evaluator = Evaluator(model, data, show_progress)
        self.evaluate = self.evaluator.oracle if oracle else self.evaluator.routed
        self.progress = Progress()
        self.is_global_zero = True
        settings.strategy.check(model.flow)
        self.ahead: Callable[[Sequence[Task]], None] | None = None
        """Learns later tasks beside each other and leaves them as :class:`LearnedTask`, if somebody sets it."""

    @property
    def categories(self) -> list[str]:
        """All categories in the order of their arrival."""
        return [category for task in self.tasks for category in task.categories]

    @property
    def state(self) -> Path:
        """Where an unfinished run keeps what it needs to go on."""
        return self.folder / "state"

    @property
    def run_callbacks(self) -> list[RunCallback]:
        """The callbacks that follow the run and not only the fits."""
        return [callback for callback in self.callbacks if isinstance(callback, RunCallback)]

    def complete(self, metrics: dict[str, Any]) -> None:
        """Tell the callbacks that the run is complete, before its results are written."""
        for callback in self.run_callbacks:
            callback.on_run_complete(self, metrics)

    def run(self) -> dict[str, CategoryResult]:
        """Learn and evaluate every task that is not done yet; return the last routed results.

        Raises:
            UserError: If a picture, a loss or a score is not as it must be; see the parts.
        """
        self.progress = Progress.read(self.state / "progress.json")
        if self.progress.tasks_done:
            log.info("Going on after task %d of %d.", self.progress.tasks_done, len(self.tasks))
            self.restore(self.progress.tasks_done)
        self._extract()
        shared = [task.name for task in self.tasks if len(task.categories) > len(self.groups(task))]
        if shared and not self.model.flow.base_moves:
            log.warning(
                "Several categories share one expert (%s), as in the recorded runs. scenario.experts=category gives "
                "each its own.",
                ", ".join(shared),
            )
        if not self.progress.tasks_done:
            self._advance(self.tasks[0])
        if self.ahead is not None:
            with self.progress.clock("training"):
                self.ahead(self.tasks[self.progress.tasks_done :])
        for task in self.tasks[self.progress.tasks_done :]:
            self._advance(task)
        return self.evaluate(self.categories, "evaluate") if self.is_global_zero else {}

    def restore(self, task: int) -> None:
        """Load what the tasks before this one have learned.

        Args:
            task: Index of the task that is next.

        Raises:
            UserError: If it is damaged or missing.
        """
        done = [name for earlier in self.tasks[:task] for name in self.groups(earlier)]
        folder = self.folder / "model"
        saved = {str(entry["name"]) for entry in ExpertStore(folder).manifest()["experts"]}
        ahead = saved - set(done)  # the run was killed between saving a task and writing down that it is done
        if ahead and self.model.flow.base_moves and self.checkpoints(task).latest() is None:
            raise UserError(
                f"{folder} holds a base that task {task + 1} has changed already, and the checkpoint of that task is "
                "missing or damaged. Start again in a new folder with hydra.run.dir=..."
            )
        self.model.restore(folder, done)
        kept = read_kept(self.state, self.progress.kept)
        self.settings.strategy.load({name: value.to(self.model.device) for name, value in kept.items()})

    def _extract(self) -> None:
        """Compute all features and look at all masks, so that a file that cannot be read ends the run at its begin."""
        splits: tuple[Split, ...] = ("train", "test")
        for category in self.categories:
            self.learned_and_held_out(category)  # refused now, not when its task comes
        samples = [s for category in self.categories for split in splits for s in self.data.samples(split, category)]
        for doubt in doubts(self.data, self.model.extractor.cache.key):
            log.warning("%s", doubt)
        paths = [sample.path for sample in samples]
        with self.progress.clock("features"):
            progress = "features" if self.show_progress else None
            self.model.extractor.extract(paths, progress)
            for category in self.categories:
                own, title = self.settings.per_category.get(category, {}), progress and f"{progress} {category}"
                extractor = self.model.parts.extractor(own)
                if extractor is not self.model.extractor:
                    extractor.extract([s.path for s in samples if s.category == category], title)
                for turn in self.settings.turns_of([category]):
                    learned = [sample.path for sample in self.learned_and_held_out(category)[0]]
                    self.model.parts.extractor(own, turn).extract(learned, title and f"{title} {turn}")

    def title(self, task: Task) -> str:
        """Return how messages call a task."""
        return f"task {task.index + 1}/{len(self.tasks)} {task.name}"

    def _advance(self, task: Task) -> None:
        """Learn a task, or take in what a job has learned, then save, evaluate and report."""
        ready = LearnedTask(self.state, task.index)
        learned = ready.join(self.model)
        if learned is None:
            learned = learn(self, task)
        else:
            log_history(self.loggers, task.index, learned.history, self.progress.step, learned.steps)
        if self.model.flow.base_moves:
            self.evaluator.forget()
        self._account(task, learned)
        ready.clear()

    def groups(self, task: Task) -> dict[str, Sequence[str]]:
        """Return the categories of each of the task's experts, by the expert's name."""
        if self.settings.experts == "category":
            return {category: (category,) for category in task.categories}
        return {task.name: task.categories}

    def learned_and_held_out(self, category: str) -> tuple[list[Sample], list[Sample]]:
        """Return a category's training pictures: those that are learned from, and those held out."""
        return hold_out(self.data.samples("train", category), self.settings.held_out, self.settings.seed)

    def checkpoints(self, task: int) -> TaskCheckpoints:
        """Return what the task of an index leaves on disk while it is in progress."""
        return TaskCheckpoints(self.state, task)

    def _account(self, task: Task, learned: Learned) -> None:
        """Save, evaluate and report; in a run of several processes the first one alone does so."""
        progress = self.progress
        progress.tasks_done += 1
        progress.step += learned.steps
        progress.skipped_steps.append(learned.skipped_steps)
        progress.histories.append(learned.history)
        if not self.is_global_zero:
            return
        self.model.save(self.folder / "model")
        seen = [category for done in self.tasks[: task.index + 1] for category in done.categories]
        with self.progress.clock("evaluation"):
            routed = self.evaluate(seen, f"evaluate {task.index + 1}/{len(self.tasks)}")
        values = {c: {**result.metrics, "routing_accuracy": result.routing_accuracy} for c, result in routed.items()}
        progress.matrix.add(task.index, values, [t.categories for t in self.tasks])
        report = TaskReport(task, progress.step, learned.history, routed)
        for callback in self.run_callbacks:
            callback.on_task_evaluated(self, report)
        kept = self.settings.strategy.state()
        progress.kept, progress.kept_numbers = write_kept(self.state, task.index, kept), count(kept)
        progress.write(self.state / "progress.json")
        drop_kept(self.state, progress.kept)
        self.checkpoints(task.index).clear()
