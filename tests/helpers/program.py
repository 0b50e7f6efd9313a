"""Runs the whole program: in this process where its result matters, as a command where its messages do."""

import os
import subprocess
import sys
from pathlib import Path

from moleflow.composing import run_program

__all__ = ["CONF", "ROOT", "TINY", "run_command", "run_program"]

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"

TINY = (
    "backbone=resnet18",
    "backbone.pretrained=false",
    "backbone.dim=16",
    "transform.size=64",
    "model.coupling_layers=2",
    "model.lora_rank=2",
    "scoring.top_k=2",
    "trainer=cpu",
    "epochs=2",
    "batch_size=4",
    "progress=false",
    "callbacks=progress",
    "features.cache_dir=null",
)
"""Overrides that make any configuration run in seconds: an 8 x 8 grid of 16 random features, and no pictures drawn.

Drawing takes longer than all else of such a run; tests whose pictures are of a new kind add ``callbacks=default``.
"""


def run_command(*arguments: str, cwd: Path = ROOT, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a fresh ``python`` with arguments as a user would, on one thread.

    Of ``train.py`` that takes seconds to import; `helpers.processes.Processes.run` does not take them.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
