"""The objects of a run, built from its configuration."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig

from moleflow.data import PictureDataModule, cut
from moleflow.errors import UserError
from moleflow.memory import keep_freed_memory
from moleflow.model import PART_NAMES, MoLEFlow
from moleflow.parts import build_part
from moleflow.training.instantiated import instantiated
from moleflow.training.sequence import TaskSequence
from moleflow.training.settings import check_values, task_settings
from moleflow.training.trainer import device_of, make_trainer, quiet_lightning


def build_sequence(config: DictConfig, settings: dict[str, Any], folder: Path) -> TaskSequence:
    """Return the run of a config, without its loggers.

    Args:
        config: The configuration, for what Hydra instantiates.
        settings: The same, resolved.
        folder: The run folder.

    Raises:
        UserError: If a part refuses its settings, or the data set is not as its layout says.
    """
    check_values(settings)
    quiet_lightning()
    keep_freed_memory()
    data = build_data(settings)
    tasks = cut(data.categories, str(settings["scenario"]["split"]))
    cache = settings["features"]["cache_dir"]
    model = MoLEFlow(
        model_settings(settings),
        cache="memory" if cache is None else Path(cache).expanduser(),
        num_workers=settings["features"]["num_workers"],
        device=device_of(settings["trainer"]),
    )
    trained = task_settings(config, settings, data.categories)
    for category, own in trained.per_category.items():
        model.parts.check(own, f"per_category.{category}")
    callbacks = [instantiated(f"callbacks.{name}", callback) for name, callback in config.callbacks.items()]
    return TaskSequence(
        model=model,
        data=data,
        tasks=tasks,
        settings=trained,
        folder=folder,
        make_trainer=partial(make_trainer, config, folder),
        callbacks=callbacks,
        oracle=bool(settings["router"]["oracle"]),
        show_progress=bool(settings["progress"]),
    )


def build_data(settings: Mapping[str, Any]) -> PictureDataModule:
    """Return the data module of a config, checked and ready.

    Raises:
        UserError: If the data set is not as its layout says.
    """
    transform = build_part("transform", settings["transform"])
    data = instantiated("dataset", settings["dataset"], transform=transform, masks=settings["masks"])
    data.prepare_data()
    data.setup()
    return cast(PictureDataModule, data)


def model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a config that a saved model needs."""
    parts = {name: dict(settings[name]) for name in PART_NAMES}
    parts["router"].pop("oracle")
    batch = settings["features"]["batch_size"]
    if batch == "auto":
        batch = 1 if device_of(settings["trainer"]).type == "cpu" else 32
    if not isinstance(batch, int) or batch < 1:
        raise UserError(f"features.batch_size={batch} must be auto or at least 1.")
    return {**parts, "score_batch": batch, "feature_dtype": settings["features"]["dtype"]}
