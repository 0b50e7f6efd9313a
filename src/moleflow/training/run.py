"""One run, from a Hydra config to a finished run folder."""

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from moleflow.data import PictureDataModule, cut
from moleflow.errors import UserError, choice
from moleflow.files import read_json
from moleflow.interrupt import Interrupted, interruptible
from moleflow.memory import keep_freed_memory
from moleflow.model import PART_NAMES, MoLEFlow
from moleflow.own_settings import merged, per_category
from moleflow.parts import build_part
from moleflow.store import ExpertStore
from moleflow.training.loggers import WandbReport, finish_loggers
from moleflow.training.parallel import check_independent, learn_alone, learn_in_jobs
from moleflow.training.results import summary, write_results
from moleflow.training.run_folder import RunFolder
from moleflow.training.sequence import TaskSequence
from moleflow.training.settings import TaskSettings

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, Any]:
    """Run what the config describes in Hydra's output folder and return the content of ``metrics.json``.

    A folder that holds the finished run already is left as it is; an unfinished one is continued.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir), settings)
    choice("resume", settings["resume"], ("auto", "force"))
    if process_rank():  # a worker of a data-parallel run: the first process owns the folder
        return _run(config, settings, folder)
    force = settings["resume"] == "force"
    if folder.finished():  # asked before the lock, so that not one file of a finished run changes
        return _finished(folder, force)
    with folder.locked(), plain_disk_errors(folder.path):
        folder.claim(force)
        if folder.finished():
            return _finished(folder, force)
        folder.set_status("running")
        try:
            with interruptible():
                metrics = _run(config, settings, folder)
        except Interrupted as stop:
            folder.set_status("interrupted", str(stop))
            raise
        except BaseException as error:
            with suppress(UserError):  # a full disk must not hide what went wrong
                folder.set_status("failed", str(error))
            raise
        folder.set_status("finished")
        log.info("\n".join((f"results in {folder.path}", *summary(metrics))))
        return metrics


def _finished(folder: RunFolder, force: bool) -> dict[str, Any]:
    folder.claim(force)
    ExpertStore(folder.path / "model").check()  # nobody is told that all is done while the model is damaged
    print(f"{folder.path} is finished already; nothing to do.")  # not logged: the run's own log stays as it is
    return cast(dict[str, Any], read_json(folder.path / "metrics.json"))


def _run(config: DictConfig, settings: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    sequence = build_sequence(config, settings, folder.path)
    if settings["scenario"]["parallel"]:
        check_independent(sequence.model.flow, settings["trainer"])
        sequence.ahead = partial(learn_in_jobs, partial(_learn_alone, settings, folder.path, os.getpid()), sequence)
    loggers = [_instantiate(f"logger.{name}", logger) for name, logger in config.logger.items()]
    sequence.loggers = loggers
    sequence.callbacks += [WandbReport(logger) for logger in loggers if isinstance(logger, WandbLogger)]
    started = time.time()
    status = "failed"
    try:
        for logger in loggers:
            logger.log_hyperparams(settings)
        routed = sequence.run()
        metrics = write_results(sequence, routed, started) if sequence.is_global_zero else {}
        status = "success"
        return metrics
    except Interrupted as stop:
        status = "interrupted"
        folder.set_status(status, str(stop))  # first: closing a logger may take its time
        raise
    finally:
        finish_loggers(loggers, status)


def build_sequence(config: DictConfig, settings: dict[str, Any], folder: Path) -> TaskSequence:
    """Return the run of a config, without its loggers.

    Args:
        config: The configuration, for what Hydra instantiates.
        settings: The same, resolved.
        folder: The run folder.

    Raises:
        UserError: If a part refuses its settings, or the data set is not as its layout says.
    """
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
    task_settings = build_task_settings(config, settings, data.categories)
    for own in task_settings.per_category.values():
        model.parts.check(own)
    callbacks = [_instantiate(f"callbacks.{name}", callback) for name, callback in config.callbacks.items()]
    return TaskSequence(
        model=model,
        data=data,
        tasks=tasks,
        settings=task_settings,
        folder=folder,
        make_trainer=partial(_make_trainer, config, folder),
        callbacks=callbacks,
        oracle=bool(settings["router"]["oracle"]),
        show_progress=bool(settings["progress"]),
    )


def _learn_alone(settings: dict[str, Any], folder: Path, owner: int, index: int) -> None:
    """Learn one task in a process that a launcher has started."""
    with interruptible(), plain_disk_errors(folder):
        learn_alone(build_sequence(OmegaConf.create(settings), settings, folder), index, owner)


def process_rank() -> int:
    """Return this process's rank in a data-parallel run, 0 otherwise."""
    return int(getattr(rank_zero_only, "rank", None) or 0)


def build_data(settings: Mapping[str, Any]) -> PictureDataModule:
    """Return the data module of a config, checked and ready.

    Raises:
        UserError: If the data set is not as its layout says.
    """
    transform = build_part("transform", settings["transform"])
    data = _instantiate("dataset", settings["dataset"], transform=transform, masks=settings["masks"])
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


def device_of(trainer: Mapping[str, Any]) -> torch.device:
    """Return where a trainer of these settings computes in this process.

    Raises:
        UserError: If an accelerator is asked for that is not there.
    """
    accelerator = str(trainer["accelerator"])
    choice("trainer.accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if accelerator == "mps":
        return torch.device("mps")
    if not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={accelerator}, but torch sees no GPU here. Use trainer=cpu.")
    return torch.device("cuda", process_rank())


def build_task_settings(config: DictConfig, settings: Mapping[str, Any], categories: Sequence[str]) -> TaskSettings:
    """Return how each task is trained.

    Args:
        config: The configuration, for what Hydra instantiates.
        settings: The same, resolved.
        categories: The categories of the run.

    Raises:
        UserError: If a value is not allowed.
    """
    given = per_category(settings, categories)
    whole = {key: settings[key] for key in ("epochs", "batch_size")}
    whole |= {f"per_category.{category}.epochs": own["epochs"] for category, own in given.items() if "epochs" in own}
    for key, value in whole.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{key}={value} must be a whole number of at least 1.")
    optimizer = settings["optimizer"]
    if not float(optimizer["lr"]) > 0:
        raise UserError(f"optimizer.lr={optimizer['lr']} must be greater than 0.")
    return TaskSettings(
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        experts=choice("scenario.experts", settings["scenario"]["experts"], ("task", "category")),
        loss=build_part("loss", settings["loss"]),
        optimizer=_instantiate("optimizer.algorithm", config.optimizer.algorithm),
        lr=float(optimizer["lr"]),
        final_lr_ratio=float(optimizer["final_lr_ratio"]),
        on_nonfinite=choice("optimizer.on_nonfinite", optimizer["on_nonfinite"], ("error", "skip")),
        lora_delay=_lora_delay(settings, min(value for key, value in whole.items() if key != "batch_size")),
        held_out=settings["held_out"],
        seed=settings["seed"],
        per_category=given,
        losses={
            category: build_part(f"per_category.{category}.loss", merged(settings["loss"], own, "loss"))
            for category, own in given.items()
        },
        strategy=_instantiate("continual", config.continual),
    )


def _lora_delay(settings: Mapping[str, Any], epochs: int) -> int:
    """Return how long LoRA waits, if that says something of this model and of tasks of so many epochs."""
    delay = settings["optimizer"]["lora_delay"]
    if not isinstance(delay, int) or not 0 <= delay < epochs:
        raise UserError(f"optimizer.lora_delay={delay} must be a number of epochs from 0 to {epochs - 1}.")
    if delay and not settings["model"].get("lora_rank"):
        raise UserError(f"optimizer.lora_delay={delay} holds LoRA back, and this model has none: set it to 0.")
    return delay


@contextmanager
def plain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a full or read-only disk makes of any library's writing into one message.

    Raises:
        UserError: In place of an :class:`OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}. Mend that and start the same command again; "
            "what the run has finished so far is kept."
        ) from error


def _make_trainer(config: DictConfig, folder: Path, **arguments: Any) -> L.Trainer:
    return cast(
        L.Trainer,
        _instantiate(
            "trainer",
            config.trainer,
            default_root_dir=str(folder),
            gradient_clip_val=config.optimizer.gradient_clip,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # the module logs once an epoch by itself
            # Lightning's requeueing would resume one task from the checkpoint of another.
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
            **arguments,
        ),
    )


def _instantiate(key: str, config: Any, **extra: Any) -> Any:
    """Instantiate with Hydra; a wrong argument is the user's to mend.

    Raises:
        UserError: If the target refuses its arguments.
    """
    try:
        return instantiate(config, **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{key}: {cause or error}") from error


def quiet_lightning() -> None:
    """Silence what Lightning says at every fit: a run makes one fit a task."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("timm").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="`training_step` returned `None`")  # a step left out: said by ourselves
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")  # Lightning's own, in 2.6
