"""Training of one task: its tensors, initialization, gradient steps and calibration."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from moleflow.data.tasks import Task
from moleflow.detector.base import mean_features
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.training.context import RunContext
from moleflow.training.data_loader import FeatureLoader
from moleflow.training.lightning_module import FlowModule
from moleflow.training.state import EpochCheckpoint
from moleflow.training.task_result import TaskResult

TrainerFactory = Callable[..., L.Trainer]
"""Returns a Lightning trainer for one task from ``max_epochs``, ``callbacks`` and ``logger``."""


def train_task(context: RunContext, task: Task, make_trainer: TrainerFactory) -> TaskResult:
    """Train the experts of one task, calibrate them and register them with the router.

    Args:
        context: The run, whose model gets the task's experts.
        task: The task.
        make_trainer: Builds the Lightning trainer.

    Raises:
        UserError: If a loss or a score is not finite.
    """
    model, config = context.model, context.config
    for name, categories in context.experts_of(task).items():
        model.add_expert(name, categories, context.overrides[name])
    with context.progress.clock("training"):
        data = load_task_data(context, task)
        for name, features in data.features.items():
            model.fit_expert(name, features, data.image_features[name])
        result = _optimize(context, task, data, make_trainer)
        config.strategy.after_task(model.patch_model, data.features)
    for name, image_features in data.image_features.items():
        model.register_with_router(name, image_features)
    model.scorer.clear_merged_cache()
    for name, features in data.features.items():
        image_features = data.image_features[name]
        count = len(image_features)  # the unaugmented images come first
        paths = [Path(image) for image in data.image_names[name][:count]]
        model.calibrate(name, features[:count], image_features, paths)
    return result


def _optimize(context: RunContext, task: Task, data: "TaskData", make_trainer: TrainerFactory) -> TaskResult:
    """Run the gradient steps of a task; without trainable parameters there are none."""
    config, flow, epochs = context.config, context.model.patch_model, context.epochs[task.index]
    experts = list(data.features)
    if not flow.trainable_parameters(experts):
        return TaskResult(0, 0, [])
    assert isinstance(flow, ExpertFlow)
    replayed = config.strategy.replay_samples(sum(len(features) for features in data.features.values()))
    replayed_names = {name: [f"{name}/replayed"] * len(features) for name, features in replayed.items()}
    module = FlowModule(
        flow=flow,
        experts=experts,
        loader=FeatureLoader(data.features | replayed, config.batch_size, config.seed, task.index),
        validation=data.validation,
        image_names=data.image_names | replayed_names,
        config=replace(config, epochs=epochs),
        losses={name: config.loss_of(context.model.experts[name].categories) for name in (*experts, *replayed)},
        label=context.task_label(task),
        task=task.index,
        previous_steps=context.progress.step,
    )
    checkpoints = context.checkpoints(task)
    trainer = make_trainer(
        max_epochs=epochs, callbacks=[*context.callbacks, EpochCheckpoint(checkpoints)], logger=context.loggers
    )
    trainer.fit(module, ckpt_path=checkpoints.latest(), weights_only=True)
    context.is_global_zero = trainer.is_global_zero
    flow.to(context.model.device).requires_grad_(False)
    return TaskResult(trainer.global_step, module.skipped_steps, module.history)


@dataclass
class TaskData:
    """Tensors of one task, by expert.

    Attributes:
        features: Patch features (A N, h, w, D) at the expert's image size, on the training device: those of the N
            unaugmented training images, then those under each of the A - 1 augmentations.
        image_features: Image features (N, D) of the unaugmented training images at the model's image size.
        image_names: Names of the A N images, for messages.
        validation: Patch features of the validation images; without the experts that have none.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    image_features: dict[str, Tensor] = field(default_factory=dict)
    image_names: dict[str, list[str]] = field(default_factory=dict)
    validation: dict[str, Tensor] = field(default_factory=dict)


def load_task_data(context: RunContext, task: Task) -> TaskData:
    """Return the tensors of a task, whose experts the model has already."""
    model, data = context.model, TaskData()
    for name, categories in context.experts_of(task).items():
        splits = [context.split_samples(category) for category in categories]
        samples = [sample for training, _ in splits for sample in training]
        paths = [sample.path for sample in samples]
        record = model.experts[name]
        features = record.extractor.features(paths)
        shared = features if record.extractor is model.extractor else model.extractor.features(paths)
        data.image_features[name] = mean_features(shared)
        image_names = [f"{sample.category}/{sample.path.name}" for sample in samples]
        augmentations = context.config.augmentations_of(categories)
        augmented = [model.components.extractor(record.overrides, kind).features(paths) for kind in augmentations]
        # Without augmentation the features are not copied: they are the largest tensors of a run.
        data.features[name] = (torch.cat([features, *augmented]) if augmented else features).to(model.device)
        data.image_names[name] = image_names + [f"{image} ({kind})" for kind in augmentations for image in image_names]
        if validation := [sample.path for _, samples in splits for sample in samples]:
            data.validation[name] = record.extractor.features(validation).to(model.device)
    return data
