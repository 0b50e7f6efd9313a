"""Models and generated images that the benchmarks run on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from omegaconf import OmegaConf
from PIL import Image

from moleflow.detector.detector import COMPONENT_NAMES, MoLEFlow
from moleflow.experiment.build import model_settings
from moleflow.experiment.compose import compose_config, run_in_process
from moleflow.utils.random import generator


def new_model(*overrides: str, device: str = "cpu", cache: Path | Literal["memory"] | None = None) -> MoLEFlow:
    """Return a model without experts.

    Args:
        overrides: Overrides of the command line that configure the model.
        device: Where the model computes.
        cache: Feature cache; by default features are computed at every call.
    """
    config = compose_config(["dataset=folder", "dataset.root=none", *overrides])
    groups = (*COMPONENT_NAMES, "features", "feature_sets", "trainer")  # the others contain the path of the run folder
    settings = {name: cast(dict[str, Any], OmegaConf.to_container(config[name], resolve=True)) for name in groups}
    return MoLEFlow(model_settings(settings), cache=cache, device=device)


def write_image(path: Path, size: int, kind: int, number: int) -> Path:
    """Write a noisy square image and return its path.

    Args:
        path: The image file.
        size: Side in pixels.
        kind: Images of one kind have one mean color.
        number: Images of one kind and different numbers differ in their noise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = generator(kind, "benchmark-image", number)
    base = 40 + 170 * torch.rand(3, generator=generator(kind, "benchmark-colour"))
    pixels = (base + 25 * torch.randn(size, size, 3, generator=draw)).clamp(0, 255)
    Image.fromarray(pixels.byte().numpy()).save(path)
    return path


def write_tree(root: Path, categories: Sequence[str], size: int, train: int, test: int) -> Path:
    """Write a data set in the layout of MVTec AD and return its root.

    Args:
        root: The folder of the categories.
        categories: The categories.
        size: Side of the images in pixels.
        train: Training images per category.
        test: Normal test images per category, and as many with a white square as the defect.
    """
    for kind, category in enumerate(categories):
        for i in range(train):
            write_image(root / category / "train" / "good" / f"{i:03}.png", size, kind, i)
        for i in range(test):
            write_image(root / category / "test" / "good" / f"{i:03}.png", size, kind, 1000 + i)
            defect = write_image(root / category / "test" / "spot" / f"{i:03}.png", size, kind, 2000 + i)
            mask = torch.zeros(size, size, dtype=torch.uint8)
            mask[size // 4 : size // 2, size // 4 : size // 2] = 255
            image = Image.open(defect).convert("RGB")
            image.paste((255, 255, 255), mask=Image.fromarray(mask.numpy()))
            image.save(defect)
            mask_path = root / category / "ground_truth" / "spot" / f"{i:03}_mask.png"
            mask_path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.numpy()).save(mask_path)
    return root


def perturb_parameters(model: MoLEFlow) -> None:
    """Add small random values to all parameters of the patch model.

    A new expert is the identity, so two implementations could agree although one of them omits a part.
    """
    draw = generator(0, "benchmark", "weights")
    with torch.no_grad():
        for parameter in model.patch_model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw).to(parameter.device)
    model.scorer.clear_merged_cache()


def train_small_run(folder: Path) -> Path:
    """Train a small closed-form model on generated images and return the run folder.

    Args:
        folder: Folder of the images, ``data``, and of the run.
    """
    root = write_tree(folder / "data", ("first", "second"), size=64, train=6, test=2)
    overrides = (
        "dataset=folder", f"dataset.root={root}", "backbone=resnet18", "backbone.pretrained=false", "backbone.dim=16",
        "transform.size=64", "model=gaussian", "epochs=1", "trainer=cpu", "features.cache_dir=null", "progress=false",
        "callbacks=minimal",
    )  # fmt: skip
    run_in_process([*overrides, f"hydra.run.dir={folder / 'run'}"])
    return folder / "run"
