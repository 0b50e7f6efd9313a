"""A later task of 60 epochs: features computed once, against backbone and FrEIA form in every step.

    python benchmarks/later_task.py --out later_task.json

WideResNet-50-2 with random weights (as fast as trained ones), 224 pixels, 768 channels, the default flow. The other
side runs the backbone, the unfold form of the pooling and the FrEIA form in each optimizer step, as the first
implementation of the method did. The features of both sides, and their losses after the steps, must be equal before a
time is printed. Single passes and steps are timed; the seconds of a task and of a whole data set are calculated from
them.
"""

import math
from collections.abc import Sequence

import torch
from inputs import new_model
from patch_pooling import unfold_pooling
from side_by_side import Row, assert_close, benchmark_parser, parse_args, print_table, time_alternately, write_result
from torch import Tensor
from training_step import Side, new_sides

from moleflow.features.backbone import PatchBackbone
from moleflow.training.trainer import retain_freed_memory
from moleflow.utils.random import generator

EPOCHS = 60
MVTEC = {"categories": 15, "train": 3629, "test": 1725}
"""Number of categories and images of MVTec AD."""
LARGEST_CATEGORY = 391
"""Training images of hazelnut."""
SMOKE = ("backbone=resnet18", "backbone.dim=32", "transform.size=64")


class StepFromImages:
    """The other side: a step that begins with the images.

    Args:
        backbone: The backbone.
        side: Trains on patch features.
    """

    def __init__(self, backbone: PatchBackbone, side: Side) -> None:
        self.backbone, self.side = backbone, side

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the patch features (B, h, w, D) of normalized images (B, 3, H, W)."""
        return unfold_pooling(self.backbone.body._maps(images), self.backbone.dim)

    def step(self, images: Tensor) -> None:
        """Take one optimizer step on normalized images (B, 3, H, W)."""
        self.side.step(self.features(images))


def task_seconds(times: dict[str, float], images: int, batch: int) -> tuple[float, float]:
    """Return the seconds of one task, of moleflow and of the other side.

    Args:
        times: Seconds of a feature pass per image, and of a step of both sides.
        images: Training images of the task.
        batch: Images per step.
    """
    steps = EPOCHS * math.ceil(images / batch)
    return images * times["feature"] + steps * times["step"], steps * times["plain step"]


def main(args: Sequence[str] | None = None) -> None:
    """Check that both sides agree, time them, and print the table."""
    parser = benchmark_parser(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--images", type=int, default=242, help="training images of the task; default: MVTec AD's mean")
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    options = parse_args(parser, args)
    device = options.device
    retain_freed_memory()  # as train.py does, here for both sides
    model = new_model("backbone.pretrained=false", *(SMOKE if options.smoke else ()), device=device)
    backbone, size = model.extractor.backbone, model.extractor.transform.height
    layers, rank, batch = (2, 4, 2) if options.smoke else (6, 64, options.batch)
    ours, other = new_sides(backbone.dim, layers, rank, device)
    plain = StepFromImages(backbone, other)

    pass_size = 32 if torch.device(device).type == "cuda" else 1  # features.batch_size=auto
    draw = generator(0, "benchmark", "images")
    images = torch.randn(max(batch, pass_size), 3, size, size, generator=draw).to(device)
    features = torch.cat([backbone(part) for part in images.split(pass_size)])[:batch]
    differences = {"features": assert_close("features", features, plain.features(images[:batch]), 1e-4)}
    model.add_expert("alone", [])
    merged = model.patch_model.merged("alone")

    def evaluate() -> None:
        with torch.inference_mode():
            model.postprocessor.anomaly_maps(merged.patch_scores(features[:pass_size], "alone").cpu())

    times = time_alternately(
        {
            "feature": lambda: backbone(images[:pass_size]),
            "step": lambda: ours.step(features),
            "plain step": lambda: plain.step(images[:batch]),
            "evaluation": evaluate,
        },
        options.repeats,
        device,
    )
    losses = [side.loss(x) for side, x in ((ours, features), (other, plain.features(images[:batch])))]
    differences["loss_relative"] = assert_close("loss after the steps", losses[0] / losses[1], torch.ones(()), 1e-3)
    times["feature"] /= pass_size
    times["evaluation"] /= min(pass_size, batch)
    seconds, other_seconds = task_seconds(times, options.images, batch)
    rows: list[Row] = [
        {
            "form": "features once",
            "seconds_per_image": times["feature"],
            "seconds_per_step": times["step"],
            "seconds_per_task": seconds,
        },
        {
            "form": "backbone in each step",
            "seconds_per_image": 0.0,
            "seconds_per_step": times["plain step"],
            "seconds_per_task": other_seconds,
        },
    ]
    for row in rows:
        row["ratio"] = other_seconds / row["seconds_per_task"]
    print(f"A task of {options.images} images and {EPOCHS} epochs, extrapolated from single steps:")
    formats = {"seconds_per_image": ".3f", "seconds_per_step": ".3f", "seconds_per_task": ".0f", "ratio": ".2f"}
    print_table(rows, {"form": "", **formats})

    grid = features.shape[1] * features.shape[2]
    count = MVTEC["train"] + MVTEC["test"]
    mean_task = MVTEC["train"] // MVTEC["categories"]
    whole = {
        "feature_pass_seconds": count * times["feature"],
        "training_seconds": task_seconds(times, mean_task, batch)[0] * MVTEC["categories"]
        - MVTEC["train"] * times["feature"],
        "scores_and_maps_seconds": MVTEC["test"] * times["evaluation"],
        "cache_gb": count * grid * backbone.dim * 4 / 1e9,
        "largest_task_gb": LARGEST_CATEGORY * grid * backbone.dim * 4 / 1e9,
    }
    print("\nAll of MVTec AD (15 tasks, 3,629 and 1,725 images), extrapolated from the same steps, without decoding:")
    print_table(
        [{"quantity": key.replace("_", " "), "value": value} for key, value in whole.items()],
        {"quantity": "", "value": ".1f"},
    )
    result = {"differences": differences, "seconds": times, "rows": rows, "whole_mvtec_extrapolated": whole}
    write_result(options.out, result, device)


if __name__ == "__main__":
    main()
