"""Patch pooling: the definition (unfold, interpolate, adaptive average) against the fixed convolutions.

    python benchmarks/patch_pooling.py --out patch_pooling.json

Shapes are those of WideResNet-50-2 at 224 pixels: layer2 512 x 28 x 28 and layer3 1024 x 14 x 14, to 768 numbers a
patch. The two must be equal to 1e-5 before anything is timed.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow.features import PatchPooling

SHAPES = ((512, 28, 28), (1024, 14, 14))
DIM = 768


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


def median_milliseconds(call: Callable[[], Tensor], repeats: int, device: torch.device) -> float:
    """Return the median wall time of ``call`` after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[1:])


def main() -> None:
    """Check, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(arguments.batch, *shape, generator=generator).to(device) for shape in SHAPES]
    pooling = PatchPooling([shape[0] for shape in SHAPES], DIM).to(device)
    error = (pooling(maps) - unfold_form(maps, DIM)).abs().max().item()
    assert error < 1e-5, f"the two forms differ by {error}"

    slow = median_milliseconds(lambda: unfold_form(maps, DIM), arguments.repeats, device)
    fast = median_milliseconds(lambda: pooling(maps), arguments.repeats, device)
    result = {
        "shapes": SHAPES,
        "dim": DIM,
        "batch": arguments.batch,
        "repeats": arguments.repeats,
        "unfold_ms": slow,
        "convolution_ms": fast,
        "ratio": slow / fast,
        "max_abs_error": error,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'form':<14}{'median ms':>10}\n{'unfold':<14}{slow:>10.1f}\n{'convolution':<14}{fast:>10.1f}")
    print(f"ratio {slow / fast:.1f}, largest difference {error:.1e}")


if __name__ == "__main__":
    main()
