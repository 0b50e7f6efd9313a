"""Prints the new command for an old one: ``python -m moleflow.migrate -- python run_moleflow.py --lr 2e-4 ...``."""

import shlex
import sys
from collections.abc import Sequence

from moleflow.errors import told
from moleflow.migrate.flags import page
from moleflow.migrate.translate import translate


@told
def main(arguments: Sequence[str]) -> int:
    """Print the new command, and notes on the error stream; return the exit status.

    Args:
        arguments: ``--page`` prints ``docs/migration.md``; anything else is the old command line, after ``--`` or not.
    """
    if list(arguments) == ["--page"]:
        print(page(), end="")
        return 0
    words = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not words or words in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    command, notes = translate(words)
    print(shlex.join(command))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
