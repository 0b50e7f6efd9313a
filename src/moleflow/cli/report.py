"""The command ``moleflow report``."""

import argparse
from pathlib import Path

from moleflow.utils.text import count_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Read run folders and write one page (index.html), its tables as Markdown (report.md) and as CSV, and the "
        "benchmark tables as LaTeX."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS_DIR", help="folders that hold runs, at any depth")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("report"), metavar="DIR", help="folder of the report (default: report/)"
    )
    parser.add_argument(
        "--metric", default="pixel_ap", help="metric that orders the leaderboard and is explained (default: pixel_ap)"
    )
    parser.add_argument(
        "--target", type=float, help="value of --metric to reach (default: pixel AP 0.6 on MVTec AD, 0.4 on VisA)"
    )
    parser.add_argument(
        "--baseline", default="", help="configuration to compare with: its id, its label, or the path of a run"
    )
    parser.add_argument(
        "--benchmark", nargs="+", default=("best",), metavar="COLUMN",
        help="columns of the benchmark table: best (the five best and the baseline), pareto, all, or configurations",
    )  # fmt: skip
    parser.add_argument(
        "--compare", nargs=2, default=(), metavar=("A", "B"), help="the two configurations of the category table"
    )
    parser.add_argument("--title", default="Experiments", help="heading of the page (default: Experiments)")


def run(args: argparse.Namespace) -> int:
    """Write the report and print its path.

    Raises:
        UserError: If a folder, a metric or a configuration does not exist.
    """
    from moleflow.reports.document import ReportOptions
    from moleflow.reports.page import write_report

    options = ReportOptions(args.metric, args.target, args.baseline, tuple(args.compare), tuple(args.benchmark))
    report = write_report(args.runs, args.out, options, args.title, show_progress=True)
    runs, faults = count_text(len(report.runs), "run"), count_text(len(report.faults), "folder")
    print(f"{report.page}: {runs}, {faults} without results.")
    return 0
