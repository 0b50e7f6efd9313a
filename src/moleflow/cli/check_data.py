"""The command ``moleflow check-data``."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the categories, as in MVTec AD or VisA")


def run(args: argparse.Namespace) -> int:
    """Print errors and warnings of a data set; return 1 if it has errors.

    Raises:
        UserError: If the folder does not exist or holds no category.
    """
    from moleflow.data.validation import check_dataset

    findings, count = check_dataset(args.root.expanduser())
    for finding in findings:  # each message has its category, or one of its files
        print(f"{finding.severity:7}  {finding.message}")
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{count} images read: {errors} errors, {len(findings) - errors} warnings.")
    return int(errors > 0)
