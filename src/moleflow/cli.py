"""What every command line does alike: resolvers, messages instead of tracebacks, exit status."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from moleflow.catalogue import records
from moleflow.errors import nearest
from moleflow.interrupt import Interrupted


def register_resolvers() -> None:
    """Make ``${run_label:...}`` known to OmegaConf."""
    from moleflow.training.run_folder import run_label

    OmegaConf.register_new_resolver("run_label", run_label, replace=True)


class JobError(CompactHydraException):
    """A :class:`moleflow.errors.UserError` as Hydra shows it: the message without a traceback."""


class Told(SystemExit):
    """The end of a program that has said what failed."""


def command(main: Callable[[], Any], conf: Path) -> None:
    """Run a Hydra program; what the user can mend ends in one message and exit status 1.

    Args:
        main: The function that ``hydra.main`` decorated.
        conf: The config folder, searched for the names nearest to an unknown one.
    """
    logging.raiseExceptions = False  # a log file on a full disk: the run itself tells of that, in one message
    try:
        main()
    except (KeyboardInterrupt, Interrupted) as stop:
        print("\ninterrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(stop.exit_status if isinstance(stop, Interrupted) else 130)
    except Told:
        raise
    except SystemExit as stop:
        if stop.code == 1 and not HydraConfig.initialized():  # the config could not be composed
            for hint in hints(sys.argv[1:], conf):
                print(hint, file=sys.stderr)
        raise


def hints(arguments: list[str], conf: Path) -> Iterator[str]:
    """Yield ``Did you mean`` lines for overrides that name a group, an option or a key that is not there.

    Args:
        arguments: The command line.
        conf: The config folder.
    """
    groups = {str(path.relative_to(conf)) for path in conf.rglob("*") if path.is_dir()}
    keys = _keys(conf)
    recorded = {row["recorded_name"]: row["experiment"] for row in records.recorded() if row["experiment"]}
    for argument in arguments:
        name, equals, value = argument.lstrip("+~").partition("=")
        if name in ("hydra/launcher", "hydra/sweeper") and value not in ("basic", ""):
            yield f"{name}={value} is a plugin: pip install 'moleflow[sweep]' brings joblib, submitit and optuna."
        if not equals or name.startswith(("-", "hydra")):
            continue
        if argument.startswith("+experiment=") and any(other.lstrip("+").startswith("sweep=") for other in arguments):
            yield f"A sweep brings its experiment; to run it on another one write experiment={value}, without the plus."
        if name.startswith("per_category."):
            if argument == f"{name}={value}":
                yield f"No category has settings of its own yet: write +{argument}, with the plus."
            continue
        if name in groups:
            options = [path.stem for path in (conf / name).glob("*.yaml")]
            for option in value.split(","):
                if name == "experiment" and option in recorded:
                    yield f"The recorded run {option} is experiment={recorded[option]} here."
                elif option not in options and "(" not in value:
                    yield f"{name}={option} is unknown.{nearest(option, options) or f' Known: {sorted(options)}'}"
        elif name not in keys:
            known = {*groups, *keys}
            leaf = [key for key in keys if key.rsplit(".")[-1] == name.rsplit(".")[-1]]
            suggestion = f" Did you mean {leaf[0]!r}?" if leaf else nearest(name, known)
            yield f"The key {name} is unknown.{suggestion}"


def _keys(conf: Path) -> set[str]:
    """Return every key that the files of the config folder set, with its group in front."""
    keys: set[str] = set()
    for path in conf.rglob("*.yaml"):
        content = OmegaConf.to_container(OmegaConf.load(path))
        group = path.relative_to(conf).parent.as_posix()
        prefix = "" if group in (".", "experiment", "ablation", "sweep", "view") else f"{group}."
        if isinstance(content, dict):
            keys |= set(_walk(content, prefix))
    return keys


def _walk(content: dict[Any, Any], prefix: str) -> Iterator[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{key}.")
