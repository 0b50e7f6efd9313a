"""How one task is learned: its experts' start, the gradient steps, and what is known of its pictures afterwards."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow.data import Task
from moleflow.flow import ExpertFlow
from moleflow.training.batches import FeatureBatches
from moleflow.training.callbacks import EpochCheckpoint
from moleflow.training.learned import Learned
from moleflow.training.module import ExpertTraining
from moleflow.training.task_data import TaskData, task_data

if TYPE_CHECKING:
    from moleflow.training.sequence import TaskSequence


def learn(run: "TaskSequence", task: Task) -> Learned:
    """Learn one task, whose experts are not there yet.

    Args:
        run: The run, whose model grows.
        task: One of its tasks.

    Raises:
        UserError: If a loss or a score is not finite.
    """
    model, groups = run.model, run.groups(task)
    for name, categories in groups.items():
        model.add_expert(name, categories, run.own[name])
    with run.progress.clock("training"):
        data = task_data(model, groups, run.learned_and_held_out, run.settings.turns_of)
        for name, grids in data.features.items():
            model.fit(name, grids, data.looks[name])
        learned = _make_steps(run, task, data)
        run.settings.strategy.learned(model.flow, data.features)
    for name, looks in data.looks.items():
        model.learn_route(name, looks)
    model.forget_merged()
    for name, grids in data.features.items():
        looks = data.looks[name]
        paths = [Path(picture) for picture in data.pictures[name]]
        model.learn_normal(name, grids[: len(looks)], looks, paths[: len(looks)])
    return learned


def _make_steps(run: "TaskSequence", task: Task, data: TaskData) -> Learned:
    """Make the gradient steps, if there is anything to learn by them."""
    settings, flow, epochs = run.settings, run.model.flow, run.epochs[task.index]
    experts = list(data.features)
    if not flow.learning_parameters(experts):
        return Learned(0, 0, [])
    assert isinstance(flow, ExpertFlow)
    again = settings.strategy.rehearsal(sum(len(grids) for grids in data.features.values()))
    remembered = {name: [f"{name}/remembered"] * len(grids) for name, grids in again.items()}
    module = ExpertTraining(
        flow=flow,
        experts=experts,
        batches=FeatureBatches(data.features | again, settings.batch_size, settings.seed, task.index),
        held_out=data.held_out,
        pictures=data.pictures | remembered,
        settings=replace(settings, epochs=epochs),
        losses={name: settings.loss_of(run.model.notes[name]["categories"]) for name in (*experts, *again)},
        title=run.title(task),
        task=task.index,
        steps_before=run.progress.step,
    )
    checkpoints = run.checkpoints(task.index)
    trainer = run.make_trainer(
        max_epochs=epochs, callbacks=[*run.callbacks, EpochCheckpoint(checkpoints)], logger=run.loggers
    )
    trainer.fit(module, ckpt_path=checkpoints.latest(), weights_only=True)
    run.is_global_zero = trainer.is_global_zero
    flow.to(run.model.device).requires_grad_(False)
    return Learned(trainer.global_step, module.skipped_steps, module.history)
