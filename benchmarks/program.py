"""What benchmarks work on: models as the command line configures them, and images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from PIL import Image

from moleflow.detector.detector import COMPONENT_NAMES, MoLEFlow
from moleflow.experiment.build import model_settings
from moleflow.experiment.compose import compose_config
from moleflow.utils.random import generator


def fresh_model(*overrides: str, device: str = "cpu", cache: Any = None) -> MoLEFlow:
    """Return a model of a config, without experts; by default it computes features anew at every call."""
    config = compose_config(["dataset=folder", "dataset.root=none", *overrides])
    parts = (*COMPONENT_NAMES, "features", "trainer")  # the rest asks Hydra for the command line
    settings = {part: cast(dict[str, Any], OmegaConf.to_container(config[part], resolve=True)) for part in parts}
    return MoLEFlow(model_settings(settings), cache=cache, device=device)


def write_image(path: Path, size: int, kind: int, number: int) -> Path:
    """Write a noisy image whose colours tell its kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = generator(kind, "benchmark-image", number)
    base = 40 + 170 * torch.rand(3, generator=generator(kind, "benchmark-colour"))
    pixels = (base + 25 * torch.randn(size, size, 3, generator=draw)).clamp(0, 255)
    Image.fromarray(pixels.byte().numpy()).save(path)
    return path


def write_tree(root: Path, categories: Sequence[str], size: int, train: int, test: int) -> Path:
    """Write a data set in the MVTec tree: per category some normal images, and as many with a bright square."""
    for kind, category in enumerate(categories):
        for i in range(train):
            write_image(root / category / "train" / "good" / f"{i:03}.png", size, kind, i)
        for i in range(test):
            write_image(root / category / "test" / "good" / f"{i:03}.png", size, kind, 1000 + i)
            defect = write_image(root / category / "test" / "spot" / f"{i:03}.png", size, kind, 2000 + i)
            mask = torch.zeros(size, size, dtype=torch.uint8)
            mask[size // 4 : size // 2, size // 4 : size // 2] = 255
            pixels = Image.open(defect).convert("RGB")
            pixels.paste((255, 255, 255), mask=Image.fromarray(mask.numpy()))
            pixels.save(defect)
            truth = root / category / "ground_truth" / "spot" / f"{i:03}_mask.png"
            truth.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.numpy()).save(truth)
    return root


def perturb(model: MoLEFlow) -> None:
    """Move all weights a little: a fresh expert is the identity, which hides what a side may have forgotten."""
    draw = generator(0, "benchmark", "weights")
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw).to(parameter.device)
    model.clear_merged_cache()
