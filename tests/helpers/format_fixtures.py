"""Run folders of released formats in ``tests/system/fixtures``, and the records of the scores that they must return.

``format<n>/<name>/`` is a finished run folder of model format n, without logs. ``format<n>/<name>.json`` is its record,
written when the folder was made.
"""

import hashlib
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch

from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.data.image_io import images_in, read_image

FIXTURES = Path(__file__).parents[1] / "system" / "fixtures"


def write_images(root: Path) -> Path:
    """Write the data set on which all run folders were trained, and return its root."""
    return write_mvtec_tree(root, ("bottle", "screw"), train=4, good=2, defect=2)


def sample_weights(model: MoLEFlow) -> list[float]:
    """Return some weights of the backbone, by which one recognizes equal draws from the seed."""
    *_, last = (parameter for parameter in model.extractor.backbone.parameters() if parameter.ndim == 4)
    return [float(value) for value in last.flatten()[:4]]


def record_experts(model: MoLEFlow) -> dict[str, Any]:
    """Return categories, overrides and thresholds of each expert by name, as JSON types."""
    return {
        name: {**expert.manifest_entry(), "thresholds": asdict(model.thresholds(name))}
        for name, expert in model.experts.items()
    }


def record_scores(model: MoLEFlow, root: Path) -> dict[str, Any]:
    """Return a digest of the pixels and the scores of each test image by its path, as JSON types.

    Args:
        model: The loaded model.
        root: Root of the data set.
    """
    images = [path for folder in sorted(root.glob("*/test/*")) for path in images_in(folder)]
    return {
        image.path.relative_to(root).as_posix(): {
            "pixels": hashlib.sha256(read_image(image.path).tobytes()).hexdigest()[:16],
            "score": image.score,
            "expert": image.expert,
            "distance": image.distance,
            "map_maximum": float(image.anomaly_map.max()),
        }
        for image in model.score(images)
    }


def environment() -> dict[str, str]:
    """Return the versions and the processor on which the last bits of a score depend."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    processors = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "processor": processors[0] if processors else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
