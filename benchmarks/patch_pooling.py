"""Patch pooling: fixed convolutions, against its definition (unfold, interpolate, adaptive average).

    python benchmarks/patch_pooling.py --out patch_pooling.json

The shapes are those of WideResNet-50-2 at 224 pixels: layer2 512 x 28 x 28 and layer3 1024 x 14 x 14, pooled to 768
channels. The results must be equal to 1e-5 before a time is printed.
"""

from collections.abc import Sequence

import torch
from side_by_side import (
    assert_close,
    benchmark_parser,
    comparison_rows,
    parse_args,
    print_table,
    time_alternately,
    write_result,
)
from torch import Tensor
from torch.nn import functional as F

from moleflow.features.patch_pooling import PatchPooling
from moleflow.utils.random import generator


def unfold_pooling(maps: Sequence[Tensor], dim: int) -> Tensor:
    """Return patch features (B, h, w, D) by the definition, with nine shifted copies of every channel in memory.

    Args:
        maps: Feature maps (B, C, H, W) of the layers; (h, w) is the size of the first.
        dim: Channels D.
    """
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


def main(args: Sequence[str] | None = None) -> None:
    """Check that both sides agree, time them, and print the table."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--batch", type=int, default=8, help="images per call")
    options = parse_args(parser, args)
    shapes, dim = ((512, 28, 28), (1024, 14, 14)), 768
    if options.smoke:
        shapes, dim = ((16, 6, 6), (32, 3, 3)), 24

    draw = generator(0, "benchmark", "maps")
    maps = [torch.randn(options.batch, *shape, generator=draw).to(options.device) for shape in shapes]
    pooling = PatchPooling([shape[0] for shape in shapes], dim).to(options.device)
    difference = assert_close("features", pooling(maps), unfold_pooling(maps, dim), 1e-5)
    times = time_alternately(
        {"convolution": lambda: pooling(maps), "unfold": lambda: unfold_pooling(maps, dim)},
        options.repeats,
        options.device,
    )
    rows = comparison_rows(times, "unfold")
    print_table(rows, {"form": "", "seconds": ".4f", "ratio": ".1f"})
    result = {"shapes": shapes, "dim": dim, "batch": options.batch, "largest_difference": difference, "rows": rows}
    write_result(options.out, result, options.device)


if __name__ == "__main__":
    main()
