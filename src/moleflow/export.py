"""Write one expert as ONNX. ``python -m moleflow.export MODEL --category X``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from moleflow.errors import told


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Export and return the exit status."""
    made = argparse.ArgumentParser(prog="python -m moleflow.export", description="Write one expert as an ONNX file.")
    made.add_argument("model", metavar="MODEL", help="a run folder or a model folder")
    made.add_argument("--category", required=True, help="the category (or the expert) to export")
    made.add_argument("-o", "--out", type=Path, help="the file (default: CATEGORY.onnx)")
    given = made.parse_args(arguments)
    from moleflow.inference.export import export
    from moleflow.model import MoLEFlow

    path = export(MoLEFlow.load(given.model), given.category, given.out or Path(f"{given.category}.onnx"))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
