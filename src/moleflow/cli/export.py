"""The command ``moleflow export``."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="run folder or model folder")
    parser.add_argument("--category", required=True, metavar="NAME", help="the category, or the expert, to export")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="the new file (default: NAME.onnx)")


def run(args: argparse.Namespace) -> int:
    """Write the ONNX file.

    Raises:
        UserError: If the model cannot be loaded, has no such expert, or the extra ``export`` is not installed.
    """
    from moleflow.detector.detector import MoLEFlow
    from moleflow.inference.onnx import export_onnx

    path = export_onnx(MoLEFlow.load(args.model), args.category, args.out or Path(f"{args.category}.onnx"))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0
