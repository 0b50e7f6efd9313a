"""The command ``moleflow check-data``."""

import argparse
from pathlib import Path

from moleflow.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of a data set in any known layout")
    parser.add_argument("--all", action="store_true", help="one line per file in place of one per cause")
    parser.add_argument("--normal-dir", default="good", metavar="NAME", help="dataset.normal_dir (default: good)")
    parser.add_argument("--test-dir", default="test", metavar="NAME", help="dataset.test_dir (default: test)")
    parser.add_argument("--mask-dir", default="ground_truth", metavar="NAME", help="dataset.mask_dir (ground_truth)")
    parser.add_argument("--mask-suffix", default="_mask", metavar="TEXT", help="dataset.mask_suffix (default: _mask)")
    parser.add_argument("--group-level", type=int, default=0, metavar="N", help="dataset.group, as a number of folders")
    parser.add_argument(
        "--input-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="transform.input_range for images with more than 8 bits per channel (default: by the type of the file)",
    )


def run(args: argparse.Namespace) -> int:
    """Print errors, warnings and notes of a data set, one line per cause; return 1 if it has errors.

    Raises:
        UserError: If the folder does not exist or holds no category, or the input range is empty.
    """
    from moleflow.data.findings import summarize
    from moleflow.data.layouts.names import LayoutNames
    from moleflow.data.validation import check_dataset

    names = LayoutNames(args.normal_dir, args.mask_dir, args.mask_suffix, args.test_dir, args.group_level)
    findings, count = check_dataset(args.root.expanduser(), names, args.input_range or "auto")
    lines = findings if args.all else summarize(findings)
    for finding in lines:  # each message has its category, or one of its files
        print(printable(f"{finding.severity:7}  {finding.message}"))
    errors, warnings = (sum(finding.severity == kind for finding in findings) for kind in ("error", "warning"))
    hint = " --all prints one line per file." if len(lines) < len(findings) else ""
    numbers = (("image", count), ("error", errors), ("warning", warnings))
    images, *problems = (f"{number} {noun}{'s' * (number != 1)}" for noun, number in numbers)
    print(f"{images} read: {', '.join(problems)}.{hint}")
    return int(errors > 0)
