"""The command ``moleflow train``: Hydra's command line with hints for wrong overrides."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, ConfigCompositionException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig

from moleflow.catalogue import records
from moleflow.cli.train_help import config_dir
from moleflow.experiment.compose import (
    PRUNED,
    JobError,
    Pruned,
    ReportedExit,
    expand_datasets,
    prepare_hydra,
    quoting_advice,
)
from moleflow.experiment.conf import group_options, read_config_file
from moleflow.experiment.sweep import SweepReport
from moleflow.utils.environment import prepare_process
from moleflow.utils.errors import UserError, did_you_mean, list_names
from moleflow.utils.signals import Interrupted
from moleflow.utils.text import printable

_FORMER_KEYS = {
    "held_out": "validation",
    "model.freedom": "model.degrees_of_freedom",
    "model.power": "model.whitening_power",
    "scoring.centre": "scoring.subtract_median",
    "scoring.map_centre": "scoring.map_subtract_median",
    "scoring.standardise": "scoring.standardize",
    "callbacks.pictures.each": "callbacks.pictures.per_kind",
    "callbacks.diagnostics.pictures": "callbacks.diagnostics.images",
    "continual.pictures": "continual.images",
    "hydra.callbacks.folder": "hydra.callbacks.output_dir",
    "hydra.callbacks.sweep.ensemble": "the command `moleflow ensemble RUN RUN... -o OUT`",
}
"""Former names of configuration keys, with their replacements."""

_FORMER_VALUES = {
    "router": {
        "own": "router=per_expert_covariance",
        "pooled": "router=shared_covariance",
        "oracle": "router.oracle=true",
    },
    "router.rule": {"own": "router.rule=per_expert_covariance", "pooled": "router.rule=shared_covariance"},
    "masks": {"seen": "masks=cropped", "native": "masks=full"},
    "scoring": {"centred": "scoring=subtract_median"},
    "callbacks": {"progress": "callbacks=minimal"},
    "dataset": {"demo": "dataset=synthetic"},
    "model.base": {"alone": "model.base=none"},
    "model.adapter": {"whitening": "model.adapter=affine_norm", "statistics": "model.adapter=closed_form_whitening"},
    "model.selection": {"greedy": "model.selection=k_center_greedy"},
}
"""Former names of options and values by group or key, with the overrides that replace them."""

_PLUGINS = ("joblib", "submitit_local", "submitit_slurm")
"""Launchers of other packages, in the extra ``sweep``."""

_MAX_SUGGESTIONS = 3  # keys of one name in a hint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: Hydra parses the arguments."""


def run(args: argparse.Namespace) -> int:
    """Train with the overrides ``args.words``.

    Raises:
        SystemExit: If the run fails or is interrupted.
        UserError: If there is no configuration folder.
    """
    sys.argv = [__file__, *args.words]  # Hydra reads the command line of the process
    # Lightning starts the other processes of a DDP run as `python -m` the main module, with the same arguments.
    sys.modules["__main__"] = sys.modules[__name__]
    main()
    return 0


def main() -> None:
    """Run Hydra's command line of this process.

    Raises:
        SystemExit: If the run fails or is interrupted: 1, or 128 plus the signal's number.
        UserError: If a configuration folder is missing, a file of the user has the name of one of the package, or
            ``--cfg`` does not go together with another argument.
    """
    prepare_process()
    sys.argv[1:] = expand_datasets(hydra_arguments(sys.argv[1:]))
    folders = prepare_hydra(config_dir(sys.argv[1:]))
    logging.raiseExceptions = False  # a full disk under the log file: the run itself reports it, in one message
    try:
        with _short_reports(folders):
            hydra.main(version_base="1.3", config_path=str(folders[0]), config_name="config")(run_job)()
    except (KeyboardInterrupt, Interrupted) as stop:
        print("\nInterrupted. Run the same command again to resume.", file=sys.stderr)
        sys.exit(stop.exit_status if isinstance(stop, Interrupted) else 130)
    except ReportedExit:
        raise
    except SystemExit as stop:
        if stop.code == 1:
            composed = HydraConfig.initialized()
            for hint in former_names(sys.argv[1:]) if composed else hints(sys.argv[1:], folders):
                print(hint, file=sys.stderr)
        raise


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with ``-m`` first: Hydra's parser accepts no override before and after an option.

    Raises:
        UserError: If the configuration of several jobs is to be printed.
    """
    multirun = [argument for argument in arguments if argument in ("-m", "--multirun")]
    others = [argument for argument in arguments if argument not in multirun]
    printing = [argument for argument in others if argument.partition("=")[0] in ("--cfg", "-c", "--info", "-i")]
    if multirun and printing:
        raise UserError(
            f"{printing[0]} prints the configuration of one job and cannot be combined with {multirun[0]}. Leave out "
            f"{multirun[0]}, and set each key to one value."
        )
    return multirun[:1] + others


def run_job(config: DictConfig) -> float | list[float | None] | str | None:
    """Run one job and return its objectives, a list if there are several; None where one does not exist.

    The result of a job whose trial is ended early is :data:`~moleflow.experiment.compose.PRUNED`.

    Raises:
        JobError: In a sweep, in place of a :class:`~moleflow.utils.errors.UserError`, for Hydra's callbacks.
        ReportedExit: In a single run, after a :class:`~moleflow.utils.errors.UserError` has been printed.
    """
    prepare_process()  # a launcher may have started another process
    from moleflow.experiment.objective import objective, objective_keys
    from moleflow.experiment.run import run

    try:
        metrics = run(config)
        values = [objective(metrics, key) for key in objective_keys(config.objective)]
        return values if len(values) > 1 else values[0]
    except Pruned as reason:
        print(reason)
        return PRUNED
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise JobError(str(error)) from None
        print(printable("\n".join((str(error), *former_names(sys.argv[1:])))), file=sys.stderr)
        raise ReportedExit(1) from None


@contextmanager
def _short_reports(folders: Sequence[Path]) -> Iterator[None]:
    """Print errors in the command line as single messages, in place of Hydra's reports for developers.

    Hydra has no setting for this, so its function is replaced. With ``HYDRA_FULL_ERROR=1`` nothing changes.
    """
    report_by_hydra = hydra_utils.run_and_report

    def run_and_report(func: Any) -> Any:
        def report_first() -> Any:
            try:
                return func()
            except CompactHydraException as error:
                if os.environ.get("HYDRA_FULL_ERROR") == "1":
                    raise
                print(printable("\n".join(messages(error, sys.argv[1:], folders))), file=sys.stderr)
                if SweepReport.active is not None:  # as a search with an invalid space raises
                    SweepReport.active.end()
                raise ReportedExit(1) from None
            except Exception as error:
                if SweepReport.active is not None:  # as a launcher raises whose worker was killed
                    print(f"The sweeper ended with an error: {error}", file=sys.stderr)
                    SweepReport.active.end()
                raise

        return report_by_hydra(report_first)

    hydra_utils.run_and_report = run_and_report
    try:
        yield
    finally:
        hydra_utils.run_and_report = report_by_hydra


def messages(error: CompactHydraException, arguments: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the messages about an error in the command line, without lists that a hint makes superfluous.

    Args:
        error: The error of Hydra.
        arguments: The command line.
        folders: The configuration folders.
    """
    if isinstance(error, OverrideParseException):
        multirun = not {"-m", "--multirun"}.isdisjoint(arguments)
        advice = (quoting_advice(argument, multirun) for argument in arguments if not argument.startswith("-"))
        return [sentence for sentence in advice if sentence] or [str(error)]
    sentences = list(hints(arguments, folders))
    if sentences and isinstance(error, ConfigCompositionException):
        return sentences
    if "ConfigStore schema" in str(error):
        sentences.append(
            "A plugin has an option of the same name, as hydra-optuna-sweeper has, which moleflow does not use. "
            "Run: pip uninstall hydra-optuna-sweeper"
        )
    cause = [str(error.__cause__)] if error.__cause__ and "To append to your config" not in str(error) else []
    return [str(error), *cause, *sentences]


def hints(arguments: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """Yield one sentence per override whose group, option or key does not exist, with the nearest names.

    Args:
        arguments: The command line.
        folders: The configuration folders.
    """
    groups = group_options(folders)
    keys = _keys(folders)
    recorded = {row["recorded_name"]: row["experiment"] for row in records.recorded() if row["experiment"]}
    for argument in arguments:
        name, equals, value = _parts(argument)
        if former := list(former_names([argument])):
            yield from former
            continue
        if name in ("hydra/launcher", "hydra/sweeper") and value not in ("basic", "", *groups[name]):
            plugins = _PLUGINS if name == "hydra/launcher" else ()
            known = ("basic", *plugins, *groups[name])
            if value not in known:
                yield f"{name}={value} is unknown.{did_you_mean(value, known)} Choose one of: {', '.join(known)}."
            elif not _is_installed(value):
                yield f"{name}={value} is a plugin that is not installed. Run: pip install 'moleflow[sweep]'"
        if not equals or name.startswith(("-", "hydra")):
            continue
        if argument.startswith("+experiment=") and any(other.lstrip("+").startswith("sweep=") for other in arguments):
            yield f"A sweep selects an experiment. To use another one, write experiment={value}, without the plus."
        if name.startswith("per_category."):
            if argument == f"{name}={value}":
                yield f"{name} is not in the configuration yet: write +{argument}, with the plus."
            continue
        group = name.partition("@")[0]  # dataset@dataset.parts.visa is an option of dataset at another key
        if group in groups:
            options = list(groups[group])
            for option in value.split(","):
                if group == "experiment" and option in recorded:
                    yield f"The configuration of the recorded run {option} is experiment={recorded[option]}."
                elif option not in options and "(" not in value:
                    alternatives = did_you_mean(option, options) or f" Choose one of: {list_names(options)}."
                    yield f"{group}={option} is unknown.{alternatives}"
        elif name not in keys and not argument.startswith("+"):  # with the plus, Hydra accepts any key
            leaf = name.rpartition(".")[2]
            matches = sorted(
                (key for key in keys if key.rpartition(".")[2] == leaf), key=lambda key: (key.count("."), key)
            )
            nearest = [key for key in matches if key.count(".") == matches[0].count(".")]
            suggestion = (
                f" Did you mean {' or '.join(map(repr, nearest[:_MAX_SUGGESTIONS]))}?"
                if matches
                else did_you_mean(name, sorted({*groups, *keys}))
            )
            yield f"The key {name} is unknown.{suggestion}"


def former_names(arguments: Sequence[str]) -> Iterator[str]:
    """Yield one sentence per override that uses a former name of a key, an option or a value.

    Args:
        arguments: The command line.
    """
    for argument in arguments:
        name, _, value = _parts(argument)
        prefix, key = "", name
        if name.startswith("per_category."):
            category, _, key = name.removeprefix("per_category.").partition(".")
            prefix = f"per_category.{category}."
        if key in _FORMER_KEYS:
            yield f"The key {name} is unknown. Use {prefix}{_FORMER_KEYS[key]} instead."
        for option in value.split(","):
            if option in _FORMER_VALUES.get(key, {}):
                yield f"{name}={option} is unknown. Use {prefix}{_FORMER_VALUES[key][option]} instead."


def _is_installed(launcher: str) -> bool:
    """Return whether the plugin of a launcher is installed."""
    return find_spec(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher") is not None


def _parts(argument: str) -> tuple[str, str, str]:
    """Return key, equals sign and value of an override."""
    return argument.lstrip("+~").partition("=")


def _keys(folders: Sequence[Path]) -> set[str]:
    """Return all keys of the files in the configuration folders but Hydra's own, prefixed by their group."""
    keys: set[str] = set()
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            is_global = path.parent == folder or "# @package _global_" in path.read_text(encoding="utf-8")
            prefix = "" if is_global else f"{path.relative_to(folder).parent.as_posix()}."
            keys |= set(_nested_keys(read_config_file(path), prefix))
    return {key for key in keys if not key.startswith("hydra")}


def _nested_keys(content: dict[Any, Any], prefix: str) -> Iterator[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _nested_keys(value, f"{prefix}{key}.")


if __name__ == "__main__":
    main()
