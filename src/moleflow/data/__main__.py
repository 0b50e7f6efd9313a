"""``python -m moleflow.data check ROOT``: what is wrong with a data set, before hours are spent on it."""

import argparse
import sys
from pathlib import Path

from moleflow.data.check import check
from moleflow.errors import told


@told
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 if no error was found, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m moleflow.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="decode every picture and mask and list what is wrong")
    checking.add_argument("root", type=Path, help="the folder that holds the categories (MVTec's tree, or VisA)")
    findings, count = check(parser.parse_args(arguments).root.expanduser())
    for finding in findings:  # each names its category, or a file of it
        print(f"{finding.severity:7}  {finding.message}")
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{count} pictures read: {errors} errors, {len(findings) - errors} warnings.")
    return int(errors > 0)


if __name__ == "__main__":
    sys.exit(main())
