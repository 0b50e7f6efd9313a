"""The benchmark of the pixel metrics runs and its assertions hold on a small data set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_benchmark_writes_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "pixel.json"
    small = ["--categories", "2", "--pictures", "6", "--size", "64", "--repeats", "1", "1", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "pixel_metrics.py"), *small], check=True, env=environment)
    written = json.loads(out.read_text())
    assert written["pixels"] == 2 * 6 * 64 * 64
    assert [row["ratio"] > 0 and row["seconds"] > 0 for row in written["rows"]] == [True] * 3
