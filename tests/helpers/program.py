"""Runs of the whole program, in this process for its results or as a command for its messages."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moleflow.experiment.compose import run_in_process

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"

TINY = (
    "backbone=resnet18",
    "backbone.name=test_resnet",
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
    "callbacks=minimal",
    "features.cache_dir=null",
)
"""Overrides with which any configuration runs in seconds: an 8 x 8 grid of 16 random features, no example images.

ResNet-18 in place of timm's ``test_resnet``, which has a thirtieth of its parameters, would take half of such a run.
Example images take longer than the rest; tests of them add ``callbacks=default``.
"""

LARGE_SET = (
    "+backbone@feature_sets.large.backbone=resnet18",
    "feature_sets.large.backbone.name=test_resnet",
    "feature_sets.large.backbone.pretrained=false",
    "feature_sets.large.backbone.dim=8",
    "+feature_sets.large.transform.size=64",
    "+model@feature_sets.large.model=patchcore",
    "feature_sets.large.model.size=40",
)
"""Overrides that add the feature set ``large``: a small memory bank of 8 features on the 8 x 8 grid of 64 pixels."""


def run_program(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a configuration in this process, in a run folder; return the content of ``metrics.json``."""
    return run_in_process([*overrides, f"hydra.run.dir={folder}"])[1]


def run_command(*arguments: str, cwd: Path = ROOT, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a fresh ``python`` with arguments, on one thread.

    The imports of a training run take seconds; :meth:`helpers.processes.Processes.run` avoids them.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
