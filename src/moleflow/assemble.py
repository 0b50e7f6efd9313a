"""Make one model of several runs' experts. ``python -m moleflow.assemble OUT RUN[=EXPERT,...]...``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from moleflow.errors import told


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Assemble and return the exit status."""
    made = argparse.ArgumentParser(
        prog="python -m moleflow.assemble",
        description="Make one model folder of experts of several runs that share a base.",
    )
    made.add_argument("out", type=Path, metavar="OUT", help="the new model folder")
    made.add_argument(
        "runs", nargs="+", metavar="RUN[=EXPERT,...]", help="run or model folders, and which experts of it"
    )
    given = made.parse_args(arguments)
    from moleflow.inference.assemble import assemble

    sources = []
    for text in given.runs:
        path, _, names = (text, "", "") if Path(text).is_dir() else text.rpartition("=")
        sources.append((Path(path or text), [name for name in names.split(",") if name]))
    experts = assemble(sources, given.out)
    print(f"{given.out}: {', '.join(experts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
