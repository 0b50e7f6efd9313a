"""Measure several runs as one. ``python -m moleflow.ensemble RUN RUN... -o OUT``."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from moleflow.errors import told


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Make the ensemble and return the exit status."""
    made = argparse.ArgumentParser(
        prog="python -m moleflow.ensemble",
        description="Average image scores and maps of finished runs, each on the scale of its own training scores.",
    )
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; the first one routes")
    made.add_argument("-o", "--out", type=Path, required=True, help="the new run folder")
    made.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    given = made.parse_args(arguments)
    from moleflow.training.ensemble import ensemble
    from moleflow.training.results import summary

    logging.basicConfig(level=logging.WARNING)
    metrics = ensemble(given.runs, given.out, given.device)
    print("\n".join((f"results in {given.out}", *summary(metrics))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
