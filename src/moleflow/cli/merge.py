"""The command ``moleflow merge-experts``."""

import argparse
from pathlib import Path

from moleflow.detector.folders import model_folder
from moleflow.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "Copy experts of several runs that share a base into one new model folder."
    parser.add_argument("out", type=Path, metavar="OUT", help="the new model folder")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN[=EXPERT,...]", help="run folders or model folders; by default all their experts"
    )


def run(args: argparse.Namespace) -> int:
    """Write the model folder and print the names of its experts.

    Raises:
        UserError: If the runs do not share base and settings, or an expert is missing or listed twice.
    """
    sources = [_source(text) for text in args.runs]
    for folder, _ in sources:
        model_folder(folder)  # before torch is loaded, so that a wrong path is an error at once
    from moleflow.detector.calibration import CALIBRATION_FILE
    from moleflow.inference.merge_experts import merge_experts

    experts = merge_experts(sources, args.out)
    print(printable(f"{args.out}: {', '.join(experts)}"))
    calibrated = [str(folder) for folder, _ in sources if (model_folder(folder) / CALIBRATION_FILE).is_file()]
    if calibrated:
        print(printable(f"The calibrations of {', '.join(calibrated)} are not copied: calibrate {args.out} again."))
    return 0


def _source(text: str) -> tuple[Path, list[str]]:
    """Return folder and experts of ``RUN[=EXPERT,...]``; the folder's own name may have an equals sign."""
    path, _, names = (text, "", "") if Path(text).is_dir() else text.rpartition("=")
    return Path(path or text), [name for name in names.split(",") if name]
