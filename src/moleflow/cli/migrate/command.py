"""The command ``moleflow migrate``."""

import argparse
import shlex
import sys

from moleflow.cli.migrate.flags import page
from moleflow.cli.migrate.translate import translate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command; its arguments are those of the first implementation and are not parsed here."""
    parser.usage = "moleflow migrate [-h] [--page] [--] [COMMAND LINE]"
    parser.description = (
        "Print the present command for a command line of the first implementation (python run_moleflow.py --lr 2e-4 "
        "...) on standard output, and notes on flags without a counterpart on standard error."
    )
    parser.add_argument("--page", action="store_true", help="print docs/migration.md: all flags and their counterparts")


def run(args: argparse.Namespace) -> int:
    """Print the translation of ``args.words``.

    Raises:
        UserError: If a flag never existed, has no value, or has a value without a counterpart.
    """
    words = args.words
    if words == ["--page"]:
        print(page(), end="")
        return 0
    if words[:1] == ["--"]:
        words = words[1:]
    if not words or words in (["-h"], ["--help"]):
        args.parser.print_help()
        return 0
    command, notes = translate(words)
    print(shlex.join(command))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return 0
