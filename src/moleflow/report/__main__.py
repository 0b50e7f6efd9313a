"""Report on run folders. ``python -m moleflow.report RUNS_DIR -o report/``."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from moleflow.errors import told


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m moleflow.report",
        description="Read run folders and write one page (index.html), its tables as Markdown (report.md) and as CSV.",
    )
    made.add_argument("runs", nargs="+", type=Path, metavar="RUNS_DIR", help="folders that hold runs, at any depth")
    made.add_argument("-o", "--out", type=Path, default=Path("report"), help="where to write (default: report/)")
    made.add_argument("--metric", default="pixel_ap", help="what orders the leaderboard and is explained")
    made.add_argument(
        "--target", type=float, help="the value of --metric to reach (default: pixel AP 0.6 on MVTec AD, 0.4 on VisA)"
    )
    made.add_argument("--baseline", default="", help="configuration to compare with: C01, its label, or a run's path")
    made.add_argument("--compare", nargs=2, default=(), metavar=("A", "B"), help="configurations of the category table")
    made.add_argument("--title", default="Experiments", help="heading of the page")
    return made


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and return the exit status."""
    page, found, faults = report(parser().parse_args(arguments))
    print(f"{page}: {found} runs, {faults} folders that gave none.")
    return 0


def report(given: argparse.Namespace) -> tuple[Path, int, int]:
    """Write the report; return the page, the number of runs and that of faults.

    Raises:
        UserError: If a folder, a metric or a configuration is not there.
    """
    from moleflow.errors import choice
    from moleflow.report.content import Options
    from moleflow.report.page import build, write
    from moleflow.report.runs import METRICS, read_runs

    options = Options(choice("--metric", given.metric, METRICS), given.target, given.baseline, tuple(given.compare))
    runs, faults = read_runs(given.runs, lambda found: tqdm(found, "runs", unit="run", disable=None, leave=False))
    subtitle = f"{len(runs)} runs from {', '.join(map(str, given.runs))}, {time.strftime('%Y-%m-%d %H:%M')}."
    sections = build(runs, faults, options, given.out, lambda parts: tqdm(parts, "sections", disable=None, leave=False))
    if not runs:
        subtitle += " No finished run was found; the warnings say what lies there."
    return write(sections, given.out, given.title, subtitle), len(runs), len(faults)


if __name__ == "__main__":
    sys.exit(main())
