"""Prints the new command for an old one: ``python -m moleflow.migrate -- python run_moleflow.py --lr 2e-4 ...``."""

import shlex
import sys
from collections.abc import Sequence

from moleflow.errors import UserError
from moleflow.migrate.flags import page
from moleflow.migrate.translate import translate


def main(arguments: Sequence[str]) -> None:
    """Print the new command, and notes on the error stream.

    Args:
        arguments: ``--page`` prints ``docs/migration.md``; anything else is the old command line, after ``--`` or not.
    """
    if list(arguments) == ["--page"]:
        print(page(), end="")
        return
    words = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not words or words in (["-h"], ["--help"]):
        print(__doc__)
        return
    try:
        command, notes = translate(words)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(shlex.join(command))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
