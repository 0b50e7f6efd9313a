"""Hydra configurations composed outside the command line, and runs in the current process."""

import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException, HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from moleflow.experiment.conf import conf_folders, working_folder_conf
from moleflow.runs.naming import display_name, run_label
from moleflow.utils.errors import UserError


class JobError(CompactHydraException):
    """A :class:`~moleflow.utils.errors.UserError` in the form that Hydra prints without a traceback."""


class Pruned(BaseException):
    """Ends a run whose trial the pruner of a search ends early."""


PRUNED = "pruned"
"""Result of a job that :class:`Pruned` has ended."""


class ReportedExit(SystemExit):
    """Exit after the error has been printed."""


def register_resolvers() -> None:
    """Register ``${run_label:...}`` and ``${display_name:...}`` with OmegaConf."""
    OmegaConf.register_new_resolver("run_label", run_label, replace=True)
    OmegaConf.register_new_resolver("display_name", display_name, replace=True)


class _WorkingFolderSearchPath(SearchPathPlugin):
    """Appends ``conf/`` of the working folder to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder, if there is one."""
        if folder := working_folder_conf():
            search_path.append("working folder", f"file://{folder}")


def prepare_hydra(config_dir: Path | None = None) -> list[Path]:
    """Register the resolvers and the search path; return the configuration folders, that of the package first.

    Args:
        config_dir: Value of ``--config-dir``, which Hydra appends to the search path itself; None if it is not set.

    Raises:
        UserError: If a configuration folder is missing, or a file of the user has the name of one of the package.
    """
    register_resolvers()
    Plugins.instance().register(_WorkingFolderSearchPath)
    return conf_folders(config_dir)


def expand_datasets(overrides: Sequence[str]) -> list[str]:
    """Return overrides with ``dataset=[mvtec,visa]`` in the form of Hydra, which has one option per group.

    The option ``mixed`` has the selected options of ``dataset`` as ``dataset.parts``.

    Args:
        overrides: Overrides as on the command line.

    Raises:
        UserError: If a data set is in the list twice.
    """
    result: list[str] = []
    for override in overrides:
        match = re.fullmatch(r"\+{0,2}dataset=\[([\w\s,]+)\]", override)
        if match is None:
            result.append(override)
            continue
        names = [name.strip() for name in match[1].split(",")]
        if len(set(names)) < len(names):
            raise UserError(
                f"{override} must have each data set once. Add another folder of the same layout by a name, as in "
                "+dataset@dataset.parts.plant_b=folder."
            )
        result += ["dataset=mixed", *(f"+dataset@dataset.parts.{name}={name}" for name in names)]
    return result


def compose_config(overrides: Sequence[str], conf: Path | None = None) -> DictConfig:
    """Return the configuration that ``moleflow train OVERRIDES`` composes, with Hydra's own settings as ``hydra``.

    Args:
        overrides: Overrides as on the command line.
        conf: The configuration folder; None: :func:`~moleflow.experiment.conf.find_conf`.

    Raises:
        hydra.errors.HydraException: If the configuration cannot be composed.
        UserError: If there is no configuration folder.
    """
    package, *_ = prepare_hydra()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str((conf or package).resolve()), job_name="train", version_base="1.3"):
        return compose("config", expand_datasets(overrides), return_hydra_config=True)


def quoting_advice(argument: str, multirun: bool = False) -> str | None:
    """Return a message about an override that Hydra's grammar rejects; None if it accepts it.

    Unquoted values may only have ASCII letters, digits and some punctuation.

    Args:
        argument: The override, as the shell passed it on.
        multirun: Whether commas separate the values of a sweep.
    """
    if _is_parsable(argument):
        return None
    key, equals, value = argument.partition("=")
    if not equals:
        return f"{argument} is not an override. Write key=value."
    if not re.fullmatch(r"[+~]{0,2}[\w./@:$-]+", key, re.ASCII):
        return (
            f"{argument} cannot be parsed: on the command line a key has ASCII letters, digits and underscores only. "
            "Write it into a file such as conf/experiment/mine.yaml, and add +experiment=mine."
        )
    quoted = [_quoted(value)]
    if value.startswith("[") and value.endswith("]"):
        quoted.insert(0, f"[{','.join(_quoted_if_necessary(item.strip()) for item in value[1:-1].split(','))}]")
    elif multirun and "," in value:
        quoted.insert(0, ",".join(map(_quoted_if_necessary, value.split(","))))
    for candidate in quoted:
        if _is_parsable(f"{key}={candidate}"):
            return (
                f"{argument} cannot be parsed: a value with letters outside ASCII, parentheses, equals signs or other "
                f"special characters needs double quotes, and the shell single quotes around them. Write: "
                f"{shlex.quote(f'{key}={candidate}')}"
            )
    return None


def _is_parsable(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:  # that of the lexer is no OverrideParseException
        return False
    return True


def _quoted(value: str) -> str:
    return QuotedString(text=value, quote=Quote.double).with_quotes()


def _quoted_if_necessary(value: str) -> str:
    return value if _is_parsable(f"key={value}") else _quoted(value)


def run_in_process(overrides: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Run ``moleflow train OVERRIDES`` in this process; return the run folder and the content of ``metrics.json``.

    Args:
        overrides: Overrides of a single run, as on the command line.

    Raises:
        hydra.errors.HydraException: If the configuration cannot be composed.
        UserError: If the input or the configuration has an error that the user can correct.
    """
    from moleflow.experiment.run import run

    config = compose_config(overrides)
    if config.hydra.mode == RunMode.MULTIRUN:
        raise UserError(
            f"{' '.join(overrides)} describes several runs. Use the command moleflow train -m, or train one run per "
            "value in a loop."
        )
    earlier = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # resolves the name of the folder, which contains the overrides
    try:
        folder = Path(config.hydra.run.dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(uncreatable_folder("hydra.run.dir", folder, "created", error)) from None
        with read_write(config.hydra.runtime), open_dict(config):
            config.hydra.runtime.output_dir = str(folder.absolute())
            HydraConfig.instance().set_config(config)
            log_file = OmegaConf.select(config, "hydra.job_logging.handlers.file")
            log_settings = None if log_file is None else OmegaConf.to_container(log_file, resolve=True)
            del config["hydra"]
        with _log_file(log_settings):
            return folder, run(config)
    finally:
        HydraConfig.instance().cfg = earlier


def uncreatable_folder(key: str, folder: Path | str, action: str, error: OSError) -> str:
    """Return the message about an output folder that cannot be created or written to.

    Args:
        key: Config key of the folder.
        folder: The folder.
        action: ``created`` or ``written to``.
        error: The error of the operating system.
    """
    return (
        f"{key}={folder} cannot be {action}: {error.strerror or error}. Choose another folder with "
        f"{key}=/path/to/folder."
    )


@contextmanager
def _log_file(settings: Any) -> Iterator[None]:
    """Append the log messages of this package to the log file of a run, and leave other loggers unchanged.

    Args:
        settings: Hydra's settings of the log file; None if logging is disabled.
    """
    if settings is None:
        yield
        return
    handler = logging.FileHandler(
        settings["filename"], encoding=settings["encoding"], errors=settings["errors"], delay=settings["delay"]
    )
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logger = logging.getLogger("moleflow")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
