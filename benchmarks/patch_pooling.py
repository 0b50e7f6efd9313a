"""Patch pooling: the definition (unfold, interpolate, adaptive average) against the fixed convolutions.

    python benchmarks/patch_pooling.py --out patch_pooling.json

Shapes are those of WideResNet-50-2 at 224 pixels: layer2 512 x 28 x 28 and layer3 1024 x 14 x 14, to 768 numbers a
patch. The two must be equal to 1e-5 before anything is timed.
"""

from collections.abc import Sequence

import torch
from side_by_side import agree, compared, parse, parser, show, take_turns, write
from torch import Tensor
from torch.nn import functional as F

from moleflow.features.patch_pooling import PatchPooling
from moleflow.utils.random import generator


def unfold_form(maps: Sequence[Tensor], dim: int) -> Tensor:
    """The pooling as it is defined: all nine shifted copies of every channel are written out."""
    height, width = maps[0].shape[-2:]
    reduced = []
    for feature_map in maps:
        batch, _, rows, columns = feature_map.shape
        planes = F.unfold(feature_map, kernel_size=3, padding=1).view(batch, -1, rows, columns)
        if (rows, columns) != (height, width):
            planes = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False)
        patches = planes.permute(0, 2, 3, 1).reshape(batch * height * width, 1, -1)
        reduced.append(F.adaptive_avg_pool1d(patches, dim).view(batch, height, width, dim))
    return torch.stack(reduced).mean(0)


def main(given: Sequence[str] | None = None) -> None:
    """Check, time, print and write."""
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=8)
    arguments = parse(made, given)
    shapes, dim = ((512, 28, 28), (1024, 14, 14)), 768
    if arguments.smoke:
        shapes, dim = ((16, 6, 6), (32, 3, 3)), 24

    draw = generator(0, "benchmark", "maps")
    maps = [torch.randn(arguments.batch, *shape, generator=draw).to(arguments.device) for shape in shapes]
    pooling = PatchPooling([shape[0] for shape in shapes], dim).to(arguments.device)
    difference = agree("features", pooling(maps), unfold_form(maps, dim), 1e-5)
    times = take_turns(
        {"convolution": lambda: pooling(maps), "unfold": lambda: unfold_form(maps, dim)},
        arguments.repeats,
        arguments.device,
    )
    rows = compared(times, "unfold")
    show(rows, {"form": "", "seconds": ".4f", "ratio": ".1f"})
    result = {"shapes": shapes, "dim": dim, "batch": arguments.batch, "largest_difference": difference, "rows": rows}
    write(arguments.out, result, arguments.device)


if __name__ == "__main__":
    main()
