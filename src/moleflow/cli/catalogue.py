"""The command ``moleflow catalogue``."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "List all experiments and ablations with their recorded or proposed image AUROC and pixel AP and, if a folder "
        "of runs is given, the means of the runs with the same configuration."
    )
    parser.add_argument("runs", nargs="?", type=Path, metavar="RUNS_DIR", help="folder that holds runs, at any depth")
    parser.add_argument("--group", help="list this group only, such as report, mole6_dia2 or visa")


def run(args: argparse.Namespace) -> int:
    """Print the table of entries.

    Raises:
        UserError: If the folder of runs does not exist, or no entry has the group.
    """
    from moleflow.catalogue.table import catalogue_table

    print(catalogue_table(args.runs, args.group))
    return 0
