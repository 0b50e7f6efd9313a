"""Objects of a run, built from its configuration, and checks of configuration values."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from statistics import median
from typing import Any, Literal, cast

import hydra.utils
import lightning as L
import torch
from hydra.errors import InstantiationException
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig

from moleflow.data.datamodule import ImageDataModule
from moleflow.data.image_io import image_size
from moleflow.data.mixed import part_errors
from moleflow.data.samples import nfc
from moleflow.data.splits import RETURN_ACTIONS, Returns
from moleflow.data.tasks import Task, shuffled, split_into_tasks, with_returns
from moleflow.data.transforms import AUGMENTATIONS
from moleflow.detector.detector import COMPONENT_NAMES, MoLEFlow
from moleflow.detector.feature_set import FEATURE_SET_COMPONENTS, check_feature_set_name, has_gradient_steps
from moleflow.detector.overrides import (
    apply_overrides,
    check_per_category,
    expert_overrides,
    override_keys,
    with_proportional_size,
)
from moleflow.detector.registry import build_component
from moleflow.detector.types import Overrides
from moleflow.experiment.early_checks import check_values
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import FlowLoss
from moleflow.runs.identity import matches_any
from moleflow.runs.naming import override_key
from moleflow.training.augmentation import AUTO
from moleflow.training.config import OptimizerFactory, TrainingConfig
from moleflow.training.context import RunContext
from moleflow.training.continual_trainer import ContinualTrainer
from moleflow.training.trainer import quiet_lightning, retain_freed_memory, trainer_device
from moleflow.utils.config import check_type
from moleflow.utils.errors import UserError, check_choice, check_range, did_you_mean, list_names, prefix_errors

log = logging.getLogger(__name__)

_RUN_KEYS = {"batch_size": "features.batch_size", "num_workers": "features.num_workers"}
"""Keys of a run by the argument of the data module that they determine, where the names differ."""

_TRAINER_KEYS = {
    "callbacks": "callbacks",
    "check_val_every_n_epoch": None,
    "default_root_dir": "hydra.run.dir",
    "enable_checkpointing": None,
    "enable_model_summary": None,
    "enable_progress_bar": "progress",
    "fast_dev_run": "epochs=1",
    "gradient_clip_val": "optimizer.gradient_clip",
    "limit_predict_batches": None,
    "limit_test_batches": None,
    "limit_val_batches": None,
    "log_every_n_steps": None,
    "logger": "logger",
    "max_epochs": "epochs",
    "min_epochs": "epochs",
    "num_sanity_val_steps": None,
    "plugins": None,
    "use_distributed_sampler": None,
    "val_check_interval": None,
}
"""Arguments of Lightning's trainer that the run determines or that have no effect, with the keys to set instead."""

_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
_UNSUPPORTED_PRECISIONS = ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16")
"""Precisions with weights below float32, which do not go together with the float32 features."""

_REQUIRED_PARTS = ("backbone", "model")
_FEATURE_SET_EXAMPLE = (
    "Compose it from the groups, such as +backbone@feature_sets.NAME.backbone=resnet18 "
    "+model@feature_sets.NAME.model=patchcore."
)

_GRADIENT_KEYS = ("epochs", "batch_size", "patch_share", "optimizer", "loss")
"""Keys without effect on a model that has no gradient steps."""


def build_continual_trainer(
    config: DictConfig, settings: dict[str, Any], folder: Path, command: Sequence[str] = ()
) -> ContinualTrainer:
    """Return the continual trainer of a configuration, without loggers.

    Args:
        config: The configuration, for the objects that Hydra instantiates.
        settings: The resolved configuration.
        folder: The run folder.
        command: The overrides of the command line.

    Raises:
        UserError: If a value is not allowed, or the data set does not have the expected layout.
    """
    check_values(settings)
    _check_trainer(settings["trainer"])
    quiet_lightning()
    retain_freed_memory()
    device = trainer_device(settings["trainer"])
    data = build_data(settings, device)
    model = MoLEFlow(
        model_settings(settings),
        cache=feature_cache(settings),
        num_workers=settings["features"]["num_workers"],
        device=device,
    )
    training = build_training_config(config, settings, data.categories)
    if training.patch_share < 1 and isinstance(model.patch_model, ExpertFlow) and model.patch_model.scale_context:
        raise UserError(
            f"patch_share={training.patch_share} is not possible with {model.patch_model.scale_context}: the scale of "
            "a patch depends on its neighbors. Set model.scale_context_kernel=null, or patch_share=null."
        )
    scenario = settings["scenario"]
    tasks = split_into_tasks(shuffled(data.categories, scenario["order_seed"]), str(scenario["split"]))
    tasks = with_returns(tasks, list(training.returns.amounts))
    training = _with_proportional_sizes(training, data, tasks, model)
    for category, overrides in training.per_category.items():
        model.components.check(overrides, f"per_category.{category}")
    _warn_of_idle_settings(settings, command)
    context = RunContext(
        detector=model,
        data=data,
        tasks=tasks,
        config=training,
        folder=folder,
        callbacks=[instantiate(f"callbacks.{name}", callback) for name, callback in config.callbacks.items()],
        command=command,
        oracle=settings["router"]["oracle"],
        show_progress=settings["progress"],
    )
    return ContinualTrainer(context, partial(make_trainer, config, folder))


def build_data(settings: Mapping[str, Any], device: torch.device | None = None) -> ImageDataModule:
    """Return the data module of a configuration, checked and set up.

    Args:
        settings: The resolved configuration.
        device: Device of the backbone; None: the device of the trainer.

    Raises:
        UserError: If the data set does not have the expected layout, or ``dataset`` has a key that the run determines.
    """
    shared: dict[str, Any] = {
        "masks": settings["masks"],
        "batch_size": features_batch_size(settings, device),
        "num_workers": settings["features"]["num_workers"],
        "validation": settings["validation"],
        "seed": settings["seed"],
    }
    if ambiguous := shared.keys() & settings["dataset"].keys():
        key = sorted(ambiguous)[0]
        raise UserError(f"dataset.{key} cannot be set: the run determines it. Set {_RUN_KEYS.get(key, key)} instead.")
    shared["transform"] = build_component("transform", settings["transform"])
    config = dict(settings["dataset"])
    if "parts" in config:
        parts = {}
        for name, part in config.pop("parts").items():
            with part_errors(name):
                parts[name] = instantiate(f"dataset.parts.{name}", part, **shared)
        data = instantiate("dataset", config | {"_partial_": True})(parts=parts, **shared)
    else:
        data = instantiate("dataset", config, **shared)
    data.prepare_data()
    data.setup()
    return cast(ImageDataModule, data)


def model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that a model folder stores."""
    components = {name: dict(settings[name]) for name in COMPONENT_NAMES}
    components["router"].pop("oracle")
    if components["router"]["features"] is None:
        del components["router"]["features"]
    further = further_feature_sets(settings)
    return {
        **components,
        "features": {"batch_size": features_batch_size(settings), "dtype": settings["features"]["dtype"]},
        **({"feature_sets": further} if further else {}),
    }


def further_feature_sets(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of the further feature sets by name.

    The transform of a set has the keys of the first set, the mean and standard deviation of its own backbone, and its
    own keys.

    Args:
        settings: The resolved configuration.

    Raises:
        UserError: If ``feature_sets`` has a wrong form.
    """
    sets = settings["feature_sets"]
    if not isinstance(sets, Mapping):
        raise UserError(f"feature_sets={sets} must map names to feature sets. {_FEATURE_SET_EXAMPLE}")
    result = {}
    for name, each in sets.items():
        key = f"feature_sets.{name}"
        check_feature_set_name(str(name))
        if not isinstance(each, Mapping) or not all(isinstance(each.get(part), Mapping) for part in _REQUIRED_PARTS):
            raise UserError(f"{key} must have a backbone and a model. {_FEATURE_SET_EXAMPLE}")
        allowed = (*FEATURE_SET_COMPONENTS, "weight")
        for part in each:
            if part not in allowed:
                raise UserError(
                    f"{key}.{part} is unknown.{did_you_mean(part, allowed)} Allowed: {list_names(allowed)}."
                )
        own = each.get("transform", {})
        if not isinstance(own, Mapping):
            raise UserError(f"{key}.transform={own} must map keys to values, such as +{key}.transform.size=448.")
        statistics = {part: each["backbone"][part] for part in ("mean", "std") if part in each["backbone"]}
        result[str(name)] = {**each, "transform": {**settings["transform"], **statistics, **own}}
    return result


def features_batch_size(settings: Mapping[str, Any], device: torch.device | None = None) -> int:
    """Return the images per forward pass of backbone and patch model.

    Args:
        settings: The resolved configuration.
        device: Device of the backbone, which determines the value of ``auto``; None: the device of the trainer.

    Raises:
        UserError: If the value is not allowed.
    """
    batch = settings["features"]["batch_size"]
    if batch == "auto":
        return 1 if (device or trainer_device(settings["trainer"])).type == "cpu" else 32
    if not isinstance(batch, int) or batch < 1:
        raise UserError(f"features.batch_size={batch} must be auto or at least 1.")
    return batch


def feature_cache(settings: Mapping[str, Any]) -> Path | Literal["memory"]:
    """Return the folder of the feature cache, or ``memory``."""
    cache = settings["features"]["cache_dir"]
    return "memory" if cache is None else Path(cache).expanduser()


def instantiate(key: str, config: Any, **extra: Any) -> Any:
    """Return the object that a config describes, with a user error in place of Hydra's traceback.

    Args:
        key: Config key, for messages.
        config: ``_target_`` and its arguments.
        extra: Further arguments.

    Raises:
        UserError: If the target rejects its arguments.
    """
    try:
        return hydra.utils.instantiate(config, **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{key}: {cause or error}") from error


def make_trainer(config: DictConfig, folder: Path, **arguments: Any) -> L.Trainer:
    """Return the Lightning trainer of one task.

    Args:
        config: The configuration of the run.
        folder: The run folder.
        arguments: Arguments of :class:`lightning.Trainer` that differ between tasks.

    Raises:
        UserError: If the trainer rejects its settings.
    """
    trainer = instantiate(
        "trainer",
        config.trainer,
        default_root_dir=str(folder),
        gradient_clip_val=config.optimizer.gradient_clip,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # the module itself logs once per epoch
        # Lightning's requeueing would resume one task from the checkpoint of another.
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
        **arguments,
    )
    return cast(L.Trainer, trainer)


def build_training_config(config: DictConfig, settings: Mapping[str, Any], categories: Sequence[str]) -> TrainingConfig:
    """Return the training configuration.

    Args:
        config: The configuration, for the objects that Hydra instantiates.
        settings: The resolved configuration.
        categories: The categories of the run.

    Raises:
        UserError: If a value is not allowed.
    """
    per_category = check_per_category(settings, categories)
    epochs = {"epochs": settings["epochs"]} | {
        f"per_category.{category}.epochs": overrides["epochs"]
        for category, overrides in per_category.items()
        if "epochs" in overrides
    }
    for key, value in {**epochs, "batch_size": settings["batch_size"]}.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{key}={value} must be a whole number of at least 1.")
    optimizer = settings["optimizer"]
    return TrainingConfig(
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        experts=_expert_scope(settings),
        loss=build_component("loss", settings["loss"]),
        optimizer=_build_optimizer(config, float(optimizer["lr"])),
        lr=float(optimizer["lr"]),
        final_lr_ratio=float(optimizer["final_lr_ratio"]),
        on_nonfinite=check_choice("optimizer.on_nonfinite", optimizer["on_nonfinite"], ("error", "skip")),
        lora_delay=_checked_lora_delay(settings, min(epochs.values())),
        patch_share=_checked_patch_share(settings["patch_share"]),
        augmentation=_checked_augmentation(settings, per_category),
        seed=settings["seed"],
        per_category=per_category,
        losses={
            category: _build_loss(settings["loss"], overrides, f"per_category.{category}")
            for category, overrides in per_category.items()
        },
        strategy=instantiate("continual", config.continual),
        returns=_build_returns(settings),
    )


def _with_proportional_sizes(
    training: TrainingConfig, data: ImageDataModule, tasks: Sequence[Task], model: MoLEFlow
) -> TrainingConfig:
    """Return the training configuration with the image sizes of each expert, where ``transform.mode=proportional``.

    The proportions are the median aspect ratio of its training images.

    Raises:
        UserError: If the header of a training image cannot be read, or the categories of one expert have different
            overrides.
    """
    sets = [each for each in model.feature_sets.values() if each.settings["transform"].get("mode") == "proportional"]
    if not sets:
        return training
    per_category = dict(training.per_category)
    sizes: dict[str, list[str]] = {}
    for task in tasks:
        for name, categories in training.experts_of(task).items():
            images = (sample.path for category in categories for sample in data.split(category)[0])
            ratio = median(width / height for width, height in map(image_size, images))
            overrides = expert_overrides(training.per_category, categories)
            for each in sets:
                own = each.overrides(overrides)
                proportional = with_proportional_size(
                    own, each.settings["transform"]["size"], ratio, each.backbone.stride
                )
                if proportional is not own:
                    overrides = each.replace_overrides(overrides, proportional)
                    per_category |= dict.fromkeys(categories, overrides)
                    height, width = proportional["transform"]["size"]
                    sizes.setdefault(f"{height} x {width}", []).append(name if each.is_first else f"{name} {each.name}")
    if sizes:
        parts = (f"{shape}: {list_names(names)}" for shape, names in sizes.items())
        log.info("Image sizes with the proportions of the training images (height x width): %s.", "; ".join(parts))
    return replace(training, per_category=per_category)


def _build_returns(settings: Mapping[str, Any]) -> Returns:
    """Return the images of the categories that return, which the option ``scenario=returning`` selects.

    Raises:
        UserError: If a value is not allowed, or the model's later experts cannot do without the first one.
    """
    scenario, model = settings["scenario"], settings["model"]
    if "returning" not in scenario:
        return Returns({}, "add", seed=settings["seed"])
    amounts = scenario["returning"]
    if not isinstance(amounts, Mapping) or not amounts:
        raise UserError(
            f"scenario.returning={amounts or 'null'} must have a share or number of training images per category, "
            "such as scenario.returning={screw: 0.5}."
        )
    action = check_choice("scenario.on_return", scenario["on_return"], RETURN_ACTIONS)
    if action == "update" and scenario["parallel"]:
        raise UserError(
            "scenario.parallel=true trains later tasks concurrently, but with scenario.on_return=update a task depends "
            "on an earlier one. Remove scenario.parallel."
        )
    for key, value in (("adapter", "soft_norm"), ("base", "separate")):
        if action != "add" and model.get(key) == value:
            raise UserError(
                f"scenario.on_return={action} is not possible with model.{key}={value}, whose first expert has another "
                "architecture than later ones. Set scenario.on_return=add."
            )
    return Returns({nfc(str(name)): amount for name, amount in amounts.items()}, action, settings["seed"])


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    """Check the settings of Lightning's trainer, which would otherwise fail or be ignored after the features."""
    known = list(signature(L.Trainer).parameters)
    for key in trainer:
        if key in _TRAINER_KEYS:
            remedy = f"Set {_TRAINER_KEYS[key]} instead." if _TRAINER_KEYS[key] else "Leave it out."
            raise UserError(f"trainer.{key} cannot be set: the run determines it. {remedy}")
        if key != "_target_" and key not in known:
            allowed = [name for name in known if name not in _TRAINER_KEYS]
            raise UserError(f"trainer.{key} is unknown.{did_you_mean(key, allowed)} Allowed: {list_names(allowed)}.")
    strategy, precision = trainer.get("strategy", "auto"), trainer.get("precision")
    if isinstance(strategy, str):
        check_choice("trainer.strategy", strategy, _STRATEGIES)
    if precision in _UNSUPPORTED_PRECISIONS:
        raise UserError(
            f"trainer.precision={precision} is not supported: weights have to be float32. Use "
            "trainer.precision=32-true, or trainer.precision=bf16-mixed for faster steps."
        )


def _expert_scope(settings: Mapping[str, Any]) -> str:
    """Return whether each ``task`` or each ``category`` has an expert, with the value ``auto`` resolved.

    Experts of a model that is fitted in closed form share nothing, so one expert for several categories has no gain.
    """
    scope = check_choice("scenario.experts", settings["scenario"]["experts"], ("auto", "task", "category"))
    if scope != "auto":
        return scope
    return "task" if has_gradient_steps(settings["model"]) else "category"


def _warn_of_idle_settings(settings: Mapping[str, Any], command: Sequence[str]) -> None:
    """Warn of overrides on the command line that have no effect because the model has no gradient steps."""
    idle = [key for key in dict.fromkeys(map(override_key, command)) if matches_any(key, _GRADIENT_KEYS)]
    for category, overrides in settings["per_category"].items():
        keys = (key for key in override_keys(overrides) if matches_any(key, _GRADIENT_KEYS))
        idle += [f"per_category.{category}.{key}" for key in keys]
    if idle and command and not has_gradient_steps(settings["model"]):  # without a command: a job of a run that warned
        log.warning(
            "%s %s no effect: this model is fitted in closed form, without gradient steps.",
            ", ".join(idle),
            "has" if len(idle) == 1 else "have",
        )


def _build_loss(settings: Mapping[str, Any], overrides: Overrides, key: str) -> FlowLoss:
    """Return the loss of an expert, with the config key of its overrides in messages."""
    with prefix_errors(key, list(override_keys(overrides))):
        loss: FlowLoss = build_component("loss", apply_overrides(settings, overrides, "loss"))
    return loss


def _build_optimizer(config: DictConfig, lr: float) -> OptimizerFactory:
    """Return the optimizer factory after a trial step, because its arguments are checked by other libraries."""
    key = "optimizer.algorithm"
    factory: OptimizerFactory = instantiate(key, config.optimizer.algorithm)
    weight = torch.nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    try:
        factory([weight], lr=lr).step(lambda: 0.0)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{key} has an argument that {config.optimizer.algorithm._target_} does not accept: {error}."
        ) from error
    return factory


def _checked_patch_share(share: Any) -> float:
    if share is None:
        return 1.0
    check_type("patch_share", share, float)
    check_range("patch_share", share, 0, 1, "null selects all patches.", low_open=True)
    return float(share)


def _checked_augmentation(settings: Mapping[str, Any], per_category: Mapping[str, Overrides]) -> str:
    for category, overrides in per_category.items():
        if "augmentation" in overrides:
            check_choice(f"per_category.{category}.augmentation", overrides["augmentation"], (*AUGMENTATIONS, AUTO))
    return check_choice("augmentation", settings["augmentation"], (*AUGMENTATIONS, AUTO))


def _checked_lora_delay(settings: Mapping[str, Any], epochs: int) -> int:
    delay = settings["optimizer"]["lora_delay"]
    if not isinstance(delay, int) or not 0 <= delay < epochs:
        raise UserError(f"optimizer.lora_delay={delay} must be a number of epochs from 0 to {epochs - 1}.")
    if delay and not settings["model"].get("lora_rank"):
        raise UserError(f"optimizer.lora_delay={delay} has no effect: this model has no LoRA. Set it to 0.")
    return delay
