"""The program ``moleflow``: table of commands, dispatch, exit statuses and error messages.

Exit statuses: 0 success; 1 an error that the user can correct, or a failed check; 2 wrong usage; 130 Ctrl-C; 141 the
reader of the output closed it (``| head``).
"""

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from moleflow import __version__
from moleflow.utils.environment import prepare_process
from moleflow.utils.errors import UserError, did_you_mean
from moleflow.utils.platform import check_platform
from moleflow.utils.text import printable


class CommandModule(Protocol):
    """Interface of the modules of the commands; heavy imports belong into :meth:`run`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add description and arguments of the command to its parser."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return the exit status."""


@dataclass(frozen=True)
class Command:
    """A command of the program.

    Attributes:
        module: Module of the command below ``moleflow.cli``, a :class:`CommandModule`.
        help: One line for the list of commands.
        unparsed: Whether the arguments are another program's: ``run`` gets them as the list ``args.words``.
        help_module: Module below ``moleflow.cli`` with ``is_help`` and ``help_text``, the help of a command whose own
            module takes long to import; empty: argparse prints the help.
    """

    module: str
    help: str
    unparsed: bool = False
    help_module: str = ""


COMMANDS = {
    "train": Command("train", "train and evaluate a detector; takes Hydra overrides", True, "train_help"),
    "predict": Command("predict", "classify images as normal, defective or of an unknown category"),
    "calibrate": Command("calibrate", "compute the thresholds of a model from images that were not trained on"),
    "export": Command("export", "write one expert, or all with the router, as an ONNX file"),
    "merge-experts": Command("merge", "copy experts of several runs into one model folder"),
    "ensemble": Command("ensemble", "evaluate several finished runs as one ensemble"),
    "report": Command("report", "write a report about run folders: HTML, Markdown and CSV"),
    "catalogue": Command("catalogue", "list the recorded and proposed experiments, beside the metrics of runs"),
    "check-data": Command("check_data", "decode every image and mask of a data set and list its errors"),
    "wandb-sweep": Command("wandb_sweep", "write a sweep of conf/sweep as a sweep file of W&B"),
    "wandb-workspace": Command("dashboard", "save a W&B workspace for the runs of a project"),
    "migrate": Command("migrate.command", "translate a command line of the first implementation", unparsed=True),
}
"""The commands by name. Only the module of the chosen one is imported, so that help and small commands start fast."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return the exit status.

    Args:
        arguments: The command line without the program's name; None: that of this process.

    Raises:
        SystemExit: After ``--help``, ``--version`` or a usage error, and at the end of ``moleflow train``.
    """
    prepare_process()
    return exit_status(lambda: _dispatch(sys.argv[1:] if arguments is None else list(arguments)))


def exit_status(run: Callable[[], int]) -> int:
    """Return the exit status of a function; print :class:`UserError` as one message without a traceback.

    Args:
        run: Runs a command and returns its exit status.
    """
    try:
        try:
            return run()
        except UserError as error:
            print(printable(str(error)), file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
            return 130
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits
        return 141


def _dispatch(words: Sequence[str]) -> int:
    check_platform()
    name = words[0] if words else None
    command = COMMANDS.get(name or "")
    parser, command_parsers = _parsers()
    if command is None:
        if name is not None and not name.startswith("-"):
            parser.error(
                f"unknown command {name!r}.{did_you_mean(name, COMMANDS)} `moleflow --help` lists the commands."
            )
        parser.parse_args(words)  # --help and --version exit
        parser.error("a command is missing. `moleflow --help` lists the commands.")
    if command.help_module:
        help_module: Any = import_module(f"moleflow.cli.{command.help_module}")
        if help_module.is_help(words[1:]):
            print(help_module.help_text(words[1:]))
            return 0
    module = cast(CommandModule, import_module(f"moleflow.cli.{command.module}"))
    command_parser = command_parsers[cast(str, name)]
    module.add_arguments(command_parser)
    if command.unparsed:
        return module.run(argparse.Namespace(words=list(words[1:]), parser=command_parser))
    return module.run(parser.parse_args(words))


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the program and those of the commands by name."""
    parser = argparse.ArgumentParser(
        "moleflow",
        description="Continual industrial anomaly detection with a normalizing flow and one expert per category.",
        epilog="`moleflow COMMAND --help` describes a command, and `moleflow train --help` lists the experiments.",
    )
    parser.add_argument("--version", action="version", version=f"moleflow {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    return parser, {
        name: subparsers.add_parser(
            name, help=command.help, description=f"{command.help[0].upper()}{command.help[1:]}."
        )
        for name, command in COMMANDS.items()
    }


def _stdout_is_closed() -> bool:
    """Return whether standard output is a pipe whose reader closed it."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return bool(output.poll(0))
