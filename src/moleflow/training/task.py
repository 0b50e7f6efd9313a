"""Training of one task: its tensors, initialization, gradient steps and calibration."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from moleflow.data.groups import group_indices
from moleflow.data.tasks import Task
from moleflow.detector.base import mean_features
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.feature_set import FIRST, FeatureSet
from moleflow.detector.types import Overrides
from moleflow.features.stream import FeatureStream
from moleflow.models.batches import Batches
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.training.context import RunContext
from moleflow.training.data_loader import FeatureLoader
from moleflow.training.lightning_module import FlowModule
from moleflow.training.state import EpochCheckpoint
from moleflow.training.task_result import TaskResult

_BATCH = 32  # images whose features are read, and moved to the device, at a time

TrainerFactory = Callable[..., L.Trainer]
"""Returns a Lightning trainer for one task from ``max_epochs``, ``callbacks`` and ``logger``."""


def train_task(context: RunContext, task: Task, make_trainer: TrainerFactory) -> TaskResult:
    """Train the experts of one task, calibrate them and register them with the router.

    The further feature sets are fitted before the features of the first one are loaded, so that features of one set at
    a time are in memory.

    Args:
        context: The run, whose model gets the task's experts.
        task: The task.
        make_trainer: Builds the Lightning trainer.

    Raises:
        UserError: If a loss or a score is not finite.
    """
    model, source = context.model, context.continued_expert(task)
    for name, categories in context.experts_of(task).items():
        model.add_expert(name, categories, context.overrides[name])
    with context.progress.clock("training"):
        scores = {name: _fit_further_sets(context, task, name) for name in context.experts_of(task)}
        data = load_task_data(context, task)
        for name, images in data.images.items():
            if source is None:
                model.fit_expert(name, images.batches(), images.image_ids, data.image_features[name])
            else:
                model.update_expert(name, source, FIRST, images.batches(), images.image_ids, images.count)
        result = _optimize(context, task, data, make_trainer)
    for name, image_features in data.image_features.items():
        model.register_with_router(name, image_features, source)
    model.scorer.clear_merged_cache()
    for name, images in data.images.items():
        scores[name].add(model.feature_sets[FIRST], name, images, model.experts[name].overrides)
        model.calibrate(
            name,
            scores[name].training,
            data.image_features[name],
            images.groups if images.grouped else None,
            scores[name].cross_validated(model),
            _validation_images(context, name),
            source,
        )
    return result


def _fit_further_sets(context: RunContext, task: Task, expert: str) -> "ExpertScores":
    """Fit an expert in all feature sets but the first, one after another.

    Args:
        context: The run.
        task: The task of the expert.
        expert: Name of the expert.

    Returns:
        The scores of the training images in these sets.
    """
    scores, source = ExpertScores(), context.continued_expert(task)
    for feature_set in context.model.feature_sets.values():
        if not feature_set.is_first:
            images = _training_images(context, task, expert, feature_set)
            if source is None:
                feature_set.fit(expert, images.batches(), images.image_ids)
            else:
                context.model.update_expert(
                    expert, source, feature_set.name, images.batches(), images.image_ids, images.count
                )
            scores.add(feature_set, expert, images, context.model.experts[expert].overrides)
    return scores


def _optimize(context: RunContext, task: Task, data: "TaskData", make_trainer: TrainerFactory) -> TaskResult:
    """Run the gradient steps of a task; without trainable parameters there are none."""
    config, flow, epochs = context.config, context.model.patch_model, context.epochs[task.index]
    experts = list(data.images)
    if not flow.trainable_parameters(experts):
        return TaskResult(0, 0, [])
    assert isinstance(flow, ExpertFlow)
    features = {name: images.features.load() for name, images in data.images.items()}
    replayed = config.strategy.replay_samples(sum(len(images) for images in features.values()))
    replayed_names = {name: [f"{name}/replayed"] * len(images) for name, images in replayed.items()}
    module = FlowModule(
        flow=flow,
        experts=experts,
        loader=FeatureLoader(features | replayed, config.batch_size, config.seed, task.index),
        validation=data.validation,
        image_names={name: images.names for name, images in data.images.items()} | replayed_names,
        config=replace(config, epochs=epochs),
        losses={name: config.loss_of(context.model.experts[name].categories) for name in (*experts, *replayed)},
        label=context.task_label(task),
        task=task.index,
        previous_steps=context.progress.step,
    )
    checkpoints = context.checkpoints(task)
    trainer = make_trainer(
        max_epochs=epochs,
        callbacks=[*context.callbacks, EpochCheckpoint(checkpoints)],
        logger=[log.logger for log in context.logs],
    )
    trainer.fit(module, ckpt_path=checkpoints.latest(), weights_only=True)
    context.is_global_zero = trainer.is_global_zero
    flow.to(context.model.device).requires_grad_(False)
    config.strategy.after_task(flow, features)
    return TaskResult(trainer.global_step, module.skipped_steps, module.history)


@dataclass(frozen=True)
class TrainingImages:
    """Training images of one expert in one feature set.

    Attributes:
        features: Patch features (h, w, D) at the expert's image size of A N images: the N unaugmented images, then
            these under each of the A - 1 augmentations.
        names: Names of the A N images, for messages.
        paths: Files of the N unaugmented images.
        groups: Index (N,) of each image's group; see :func:`~moleflow.data.groups.group_indices`.
        grouped: Whether the data set has groups (``dataset.group``).
    """

    features: FeatureStream
    names: list[str]
    paths: list[Path]
    groups: Tensor
    grouped: bool

    @property
    def count(self) -> int:
        """Number N of unaugmented images."""
        return len(self.paths)

    @property
    def image_ids(self) -> Tensor:
        """Index (A N,) of the group of the image that each entry of the features shows."""
        return self.groups.repeat(len(self.features) // self.count)

    def batches(self) -> Batches:
        """Return the features in batches."""
        return self.features.batches(_BATCH)

    def mean_features(self) -> Tensor:
        """Return the image features (N, D) of the unaugmented images, on the CPU."""
        return torch.cat([mean_features(batch).cpu() for batch in self.features.batches(_BATCH, self.count)])


@dataclass
class ExpertScores:
    """Patch scores (N, h, w) of an expert's training images by feature set.

    Attributes:
        training: Scores under the expert, without the patches of the image's group in memory banks.
        as_new: Scores as if the expert had not been fitted to the image; without the sets that cannot compute them.
    """

    training: dict[str, Tensor] = field(default_factory=dict)
    as_new: dict[str, Tensor] = field(default_factory=dict)

    def add(self, feature_set: FeatureSet, expert: str, images: TrainingImages, overrides: Overrides) -> None:
        """Score the training images in a feature set.

        Args:
            feature_set: The feature set, in which the expert is trained.
            expert: Name of the expert.
            images: The training images.
            overrides: The overrides of the expert.
        """
        model = feature_set.patch_model
        paths = [Path(name) for name in images.names[: images.count]]
        unaugmented = images.features.batches(feature_set.batch_size, images.count)
        scores = feature_set.patch_scores(unaugmented, expert, paths, images.groups)
        self.training[feature_set.name] = scores
        if model.excludes_training_images:
            self.as_new[feature_set.name] = scores
        elif not model.trainable_parameters([expert]) and len(set(images.groups.tolist())) > 1:
            batches = images.features.batches(feature_set.batch_size)
            self.as_new[feature_set.name] = feature_set.cross_validated_scores(
                batches, images.image_ids, paths, overrides
            )

    def cross_validated(self, model: MoLEFlow) -> dict[str, Tensor] | None:
        """Return ``as_new`` if it has all feature sets of a model and differs from ``training``, else None."""
        complete = self.as_new.keys() == model.feature_sets.keys()
        return self.as_new if complete and not model.excludes_training_images else None


@dataclass
class TaskData:
    """Tensors of one task in the first feature set, by expert.

    Attributes:
        images: The training images.
        image_features: Image features (N, D) of the unaugmented training images, by which images are routed.
        validation: Patch features (N, h, w, D) of the validation images; without the experts that have none.
    """

    images: dict[str, TrainingImages] = field(default_factory=dict)
    image_features: dict[str, Tensor] = field(default_factory=dict)
    validation: dict[str, Tensor] = field(default_factory=dict)


def load_task_data(context: RunContext, task: Task) -> TaskData:
    """Return the tensors of a task, whose experts the model has already."""
    model, data = context.model, TaskData()
    for name in context.experts_of(task):
        record = model.experts[name]
        images = _training_images(context, task, name, model.feature_sets[FIRST])
        if record.extractor is model.extractor:
            data.image_features[name] = images.mean_features()
        else:
            data.image_features[name] = model.image_features(images.paths)
        data.images[name] = images
        validation = _validation_images(context, name)
        if validation and model.patch_model.trainable_parameters([name]):
            data.validation[name] = record.extractor.features(validation).to(model.device)
    return data


def _validation_images(context: RunContext, expert: str) -> list[Path]:
    """Return the validation images of an expert."""
    categories = context.model.experts[expert].categories
    return [sample.path for category in categories for sample in context.data.split(category)[1]]


def _training_images(context: RunContext, task: Task, expert: str, feature_set: FeatureSet) -> TrainingImages:
    """Return the training images of an expert of a task in one feature set.

    Features of moderate size, and those of gradient steps, are in memory; others remain in the cache.
    """
    record = context.model.experts[expert]
    samples = [sample for category in record.categories for sample in context.training_samples(task, category)]
    paths = [sample.path for sample in samples]
    names = [f"{sample.category}/{sample.path.name}" for sample in samples]
    augmentations = context.config.augmentations_of(record.categories)
    extractors = [feature_set.extractor(record.overrides, kind) for kind in (None, *augmentations)]
    features = FeatureStream([(extractor, paths) for extractor in extractors], context.model.device)
    if features.fits_into_memory or feature_set.patch_model.trainable_parameters([expert]):
        features.load()
    return TrainingImages(
        features=features,
        names=names + [f"{image} ({kind})" for kind in augmentations for image in names],
        paths=paths,
        groups=group_indices(samples),
        grouped=any(sample.group is not None for sample in samples),
    )
