"""The command ``moleflow export``."""

import argparse
from pathlib import Path

from moleflow.detector.folders import model_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="run folder or model folder")
    content = parser.add_mutually_exclusive_group(required=True)
    content.add_argument("--category", metavar="NAME", help="the category, or the expert, to export")
    content.add_argument("--all", action="store_true", help="export the router and all experts as one graph")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="the new file (default: NAME.onnx, or all.onnx)")


def run(args: argparse.Namespace) -> int:
    """Write the ONNX file.

    Raises:
        UserError: If the model cannot be loaded, has no such expert, or the extra ``export`` is not installed.
    """
    folder = model_folder(Path(args.model))
    from moleflow.detector.detector import MoLEFlow
    from moleflow.inference.onnx import export_onnx

    out = args.out or Path(f"{'all' if args.all else args.category}.onnx")
    path = export_onnx(MoLEFlow.load(folder), args.category, out)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0
