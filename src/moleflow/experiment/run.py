"""One run: from a configuration to a finished run folder."""

import logging
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from moleflow.experiment.compose import Pruned
from moleflow.experiment.early_checks import check_data_root, check_values, dataset_roots
from moleflow.experiment.sweep import is_search
from moleflow.runs.folder import RunFolder, disk_errors
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_json
from moleflow.utils.signals import Interrupted, interruptible
from moleflow.utils.text import printable

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, Any]:
    """Run a configuration in Hydra's output folder and return the content of ``metrics.json``.

    A finished run is left unchanged; an unfinished one is resumed.

    Raises:
        UserError: If the configuration, the data or the folder does not permit the run.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir), settings)
    force = settings["resume"] == "force"
    try:
        check_values(settings)
        folder.check_configuration(force)
        finished = folder.is_finished()
        if not finished:  # its data may be on another machine
            check_data_root(settings["dataset"])
    except UserError:
        folder.remove_empty()  # not locked: it may belong to another process
        _close_log_files()
        raise
    from moleflow.training.trainer import process_rank  # imports Lightning

    if process_rank():  # a worker of a data-parallel run: the first process owns the folder
        return _train(config, settings, folder)
    if finished:  # checked before locking, so that no file of a finished run changes
        return _finished_metrics(folder, settings, force)
    with folder.locked(wait=is_search(HydraConfig.get())), disk_errors(folder.path):
        folder.claim(force)
        if folder.is_finished():
            return _finished_metrics(folder, settings, force)
        folder.set_status("running")
        try:
            with interruptible():
                metrics = _train(config, settings, folder)
        except Interrupted as signal:
            folder.set_status("interrupted", str(signal))
            raise
        except Pruned as error:
            folder.set_status("pruned", str(error))
            raise
        except BaseException as error:
            rejected = isinstance(error, UserError) and not (folder.training_started or folder.has_results)
            if rejected:  # the corrected command finds a free folder
                folder.discard()
                _close_log_files()
                raise
            with suppress(UserError):  # a full disk must not hide the original error
                folder.set_status("failed", str(error))
            raise
        folder.set_status("finished")
        from moleflow.evaluation.results import format_metrics

        log.info("\n".join((f"Results in {folder.path}", *format_metrics(metrics), "", *_next_steps(folder.path))))
        return metrics


def _train(config: DictConfig, settings: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Import torch and Lightning, train all tasks, and return the content of ``metrics.json``."""
    from moleflow.experiment.execution import train

    return train(config, settings, folder)


def _close_log_files() -> None:
    """Close log files in removed folders, in which later messages of this process cannot be written."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler) and not Path(handler.baseFilename).parent.is_dir():
            root.removeHandler(handler)
            handler.close()


def _finished_metrics(folder: RunFolder, settings: dict[str, Any], force: bool) -> dict[str, Any]:
    """Return the metrics of a finished run after verifying its configuration, its data and its model.

    Raises:
        UserError: If the configuration or the data have changed, or the model is damaged. Data that cannot be read, for
            instance on another machine, are not compared.
    """
    from moleflow.data.fingerprint import data_fingerprint
    from moleflow.detector.store import ModelStore
    from moleflow.experiment.build import build_data

    folder.claim(force)
    fingerprint = None
    missing = [root for root in dataset_roots(settings["dataset"]) if not root.is_dir()]
    if missing:  # not built: a synthetic data set would be written
        print(printable(f"The data are not compared with those of the run: dataset.root={missing[0]} does not exist."))
    else:
        try:
            fingerprint = data_fingerprint(build_data(settings))
        except UserError as error:
            print(printable(f"The data cannot be compared with those of the run: {error}"))
    if fingerprint is not None:
        folder.claim_data(fingerprint, force)
    ModelStore(folder.path / "model").check()  # verify the model before reporting success
    print(f"{folder.path} is finished already; nothing to do.")  # not logged: the run's log file stays unchanged
    return cast(dict[str, Any], read_json(folder.path / "metrics.json"))


def _next_steps(folder: Path) -> list[str]:
    examples = ["Example images are in pictures/."] if (folder / "pictures").is_dir() else []
    return [
        *examples,
        f"Score other images:        {shlex.join(['moleflow', 'predict', os.path.relpath(folder)])} IMAGE...",
        "Compare with other runs:   moleflow report runs -o report",
    ]
