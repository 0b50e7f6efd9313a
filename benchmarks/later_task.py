"""A later task of 60 epochs: features once and then steps of this flow, against backbone and FrEIA form at every step.

    python benchmarks/later_task.py --out later_task.json

WideResNet-50-2 with random weights (they cost what trained ones cost), 224 pixels, 768 numbers a patch, the default
flow. The other side runs the backbone, the unfold form of the pooling and the FrEIA form in each optimizer step, as the
first implementation of the method did. Both must see the same features, and after the steps have the same loss, before
a time is printed. Measured are the seconds of single passes and steps; a task's and a whole data set's seconds are
arithmetic from these and say so: nobody waits for 60 epochs here.
"""

import math
from collections.abc import Sequence

import torch
from patch_pooling import unfold_form
from program import fresh_model
from side_by_side import Row, agree, parse, parser, show, take_turns, write
from torch import Tensor
from training_step import Side, sides

from moleflow.features.backbone import PatchBackbone
from moleflow.training.trainer import retain_freed_memory
from moleflow.utils.random import generator

EPOCHS = 60
MVTEC = {"categories": 15, "train": 3629, "test": 1725}
SMOKE = ("backbone=resnet18", "backbone.dim=32", "transform.size=64")


class PlainSteps:
    """The other side: every step begins at the images."""

    def __init__(self, backbone: PatchBackbone, side: Side) -> None:
        self.backbone, self.side = backbone, side

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        return unfold_form(self.backbone.body._maps(images), self.backbone.dim)

    def step(self, images: Tensor) -> None:
        self.side.step(self.features(images))


def task(times: dict[str, float], images: int, batch: int) -> tuple[float, float]:
    """Return the seconds of one task of so many training images, ours and the other side's."""
    steps = EPOCHS * math.ceil(images / batch)
    return images * times["feature"] + steps * times["step"], steps * times["plain step"]


def main(given: Sequence[str] | None = None) -> None:
    """Check, measure, print and write."""
    made = parser(__doc__)
    made.set_defaults(repeats=3)
    made.add_argument("--images", type=int, default=242, help="training images of the task; MVTec AD's mean")
    made.add_argument("--batch", type=int, default=16, help="images a step")
    arguments = parse(made, given)
    device = arguments.device
    retain_freed_memory()  # as train.py does; both sides have it
    model = fresh_model("backbone.pretrained=false", *(SMOKE if arguments.smoke else ()), device=device)
    backbone, size = model.extractor.backbone, model.extractor.transform.height
    layers, rank, batch = (2, 4, 2) if arguments.smoke else (6, 64, arguments.batch)
    ours, other = sides(backbone.dim, layers, rank, device)
    plain = PlainSteps(backbone, other)

    at_once = 32 if torch.device(device).type == "cuda" else 1  # features.batch_size=auto
    draw = generator(0, "benchmark", "images")
    images = torch.randn(max(batch, at_once), 3, size, size, generator=draw).to(device)
    cached = torch.cat([backbone(part) for part in images.split(at_once)])[:batch]
    differences = {"features": agree("features", cached, plain.features(images[:batch]), 1e-4)}
    model.add_expert("alone", [])
    merged = model.flow.merged("alone")

    def evaluate() -> None:
        with torch.inference_mode():
            model.scoring.anomaly_maps(merged.patch_scores(cached[:at_once], "alone").cpu())

    times = take_turns(
        {
            "feature": lambda: backbone(images[:at_once]),
            "step": lambda: ours.step(cached),
            "plain step": lambda: plain.step(images[:batch]),
            "evaluation": evaluate,
        },
        arguments.repeats,
        device,
    )
    losses = [side.loss(x) for side, x in ((ours, cached), (other, plain.features(images[:batch])))]
    differences["loss_relative"] = agree("loss after the steps", losses[0] / losses[1], torch.ones(()), 1e-3)
    times["feature"] /= at_once
    times["evaluation"] /= min(at_once, batch)
    mine, theirs = task(times, arguments.images, batch)
    rows: list[Row] = [
        {
            "form": "features once",
            "seconds_a_image": times["feature"],
            "seconds_a_step": times["step"],
            "seconds_a_task": mine,
        },
        {
            "form": "backbone each step",
            "seconds_a_image": 0.0,
            "seconds_a_step": times["plain step"],
            "seconds_a_task": theirs,
        },
    ]
    for row in rows:
        row["ratio"] = theirs / row["seconds_a_task"]
    print(f"A task of {arguments.images} images and {EPOCHS} epochs is extrapolated from single steps.")
    show(
        rows, {"form": "", "seconds_a_image": ".3f", "seconds_a_step": ".3f", "seconds_a_task": ".0f", "ratio": ".2f"}
    )

    grid = cached.shape[1] * cached.shape[2]
    count = MVTEC["train"] + MVTEC["test"]
    whole = {
        "feature_pass_seconds": count * times["feature"],
        "training_seconds": task(times, MVTEC["train"] // MVTEC["categories"], batch)[0] * MVTEC["categories"]
        - MVTEC["train"] * times["feature"],
        "scores_and_maps_seconds": MVTEC["test"] * times["evaluation"],
        "cache_gb": count * grid * backbone.dim * 4 / 1e9,
        "largest_task_gb": 391 * grid * backbone.dim * 4 / 1e9,  # hazelnut
    }
    print("\nAll of MVTec AD (15 tasks, 3,629 and 1,725 images), extrapolated from the same steps, without decoding:")
    show(
        [{"what": key.replace("_", " "), "value": value} for key, value in whole.items()], {"what": "", "value": ".1f"}
    )
    result = {"differences": differences, "seconds": times, "rows": rows, "whole_mvtec_extrapolated": whole}
    write(arguments.out, result, device)


if __name__ == "__main__":
    main()
