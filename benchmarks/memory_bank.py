"""Memory banks: selection of patches, nearest neighbors, and fits of the two models that use them.

    python benchmarks/memory_bank.py --threads 1 --clock process --out memory_bank.json

The sizes are those of an expert of 120 images at 224 pixels with EfficientNet-Lite0: 94,080 patches of 128 channels, of
which 3,000 are selected; the patches are random points around 200 centers.

* *Selection*: `k_center_greedy` of moleflow against the same algorithm as in anomalib, which updates the distances of
  all patches for each selected one, in a random projection to 282 dimensions (Johnson-Lindenstrauss with error 0.9).
  The seconds of the latter are those of its first steps, times the number of steps: all steps take equally long. Its
  coverage radius, the largest distance of a patch to the nearest selected one in all channels, is that of a tenth of
  the images; that of moleflow may be at most 2 % larger.
* *Neighbors*: the nearest of 3,000 patches for those of 8 images, against the matrix product of that size alone, and
  equal to `torch.cdist`.
* *Fits*: the mixture against PatchCore, on the same patches.
"""

from collections.abc import Sequence

import torch
from side_by_side import (
    Row,
    assert_close,
    benchmark_parser,
    comparison_rows,
    parse_args,
    print_table,
    seconds,
    time_alternately,
    write_result,
)
from torch import Tensor

from moleflow.models.closed_form.mixture import MixtureModel
from moleflow.models.closed_form.patchcore import PatchCore
from moleflow.models.memory_bank import build_memory_bank, nearest_neighbors
from moleflow.utils.random import generator

_TIMED_STEPS = 50  # of the selection in anomalib's form
_PROJECTION = 282  # its dimensions for 94,080 patches


def random_patches(images: int, side: int, dim: int) -> Tensor:
    """Return patch grids (images, side, side, dim): points of a 16-dimensional normal distribution around 200 centers.

    Args:
        images: Number of grids.
        side: Rows and columns of a grid.
        dim: Channels.
    """
    draw = generator(0, "benchmark", "patches")
    count = images * side * side
    centers = torch.randn(200, dim, generator=draw)[torch.randint(200, (count,), generator=draw)]
    within = torch.randn(count, 16, generator=draw) @ torch.randn(16, dim, generator=draw) / 4
    return (centers + within + 0.2 * torch.randn(count, dim, generator=draw)).reshape(images, side, side, dim)


def one_at_a_time(points: Tensor, start: int, count: int) -> Tensor:
    """Return indices (count,) of points (N, D) that are each farthest from those before, one update for each."""
    selected = [start]
    distances = torch.linalg.vector_norm(points - points[start], dim=1)
    while len(selected) < count:
        selected.append(int(distances.argmax()))
        distances = torch.minimum(distances, torch.linalg.vector_norm(points - points[selected[-1]], dim=1))
    return torch.tensor(selected, device=points.device)


def coverage_radius(patches: Tensor, selected: Tensor) -> float:
    """Return the largest distance of a patch (N, D) to the nearest selected one (K, D)."""
    return float(nearest_neighbors(patches, selected).distances.max())


def main(args: Sequence[str] | None = None) -> None:
    """Check the results, time both sides of each comparison, and print the table."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--images", type=int, default=120, help="training images")
    options = parse_args(parser, args)
    side, dim, size = 28, 128, 3000
    if options.smoke:
        options.images, side, dim, size = 4, 6, 16, 20
    grids = random_patches(options.images, side, dim).to(options.device)
    patches = grids.flatten(0, 2)

    projection = torch.randn(dim, _PROJECTION, generator=generator(0, "benchmark", "projection")).to(options.device)
    part = grids[: max(2, options.images // 10)]
    in_part = part.flatten(0, 2)
    part_size = min(size, len(in_part) // 4)
    ours = build_memory_bank([part], part_size, "k_center_greedy", generator(0, "benchmark", "selection")).patches
    other = in_part[one_at_a_time(in_part @ projection, 0, part_size)]
    radii = {"moleflow": coverage_radius(in_part, ours), "anomalib's form": coverage_radius(in_part, other)}
    if not radii["moleflow"] <= 1.02 * radii["anomalib's form"]:
        raise AssertionError(f"The coverage radius of moleflow is larger: {radii}.")

    steps, draw = min(_TIMED_STEPS, size), generator(0, "benchmark", "selection")
    projected = patches @ projection
    selection = {
        "selection": seconds(lambda: build_memory_bank([grids], size, "k_center_greedy", draw), options.device),
        "selection in anomalib's form": seconds(lambda: one_at_a_time(projected, 0, steps), options.device)
        * (size / steps),
    }
    rows: list[Row] = comparison_rows(selection, "selection in anomalib's form")

    bank = patches[:: max(1, len(patches) // size)][:size]
    queries = grids[:8].flatten(0, 2) + 0.1
    expected = torch.cdist(queries, bank).min(1).values
    difference = assert_close("distances", nearest_neighbors(queries, bank).distances, expected, 1e-4)
    neighbors = time_alternately(
        {"neighbors": lambda: nearest_neighbors(queries, bank), "matrix product": lambda: queries @ bank.T},
        options.repeats,
        options.device,
    )
    rows += comparison_rows(neighbors, "matrix product")

    def fit(model: PatchCore | MixtureModel) -> None:
        model.add_expert("a")
        model.fit("a", [grids])

    fits = {
        "fit of the mixture": seconds(lambda: fit(MixtureModel(dim, size)), options.device),
        "fit of PatchCore": seconds(lambda: fit(PatchCore(dim, size)), options.device),
    }
    rows += comparison_rows(fits, "fit of PatchCore")
    print_table(rows, {"form": "", "seconds": ".3f", "ratio": ".2f"})
    print("Coverage radius on a tenth of the images: " + ", ".join(f"{name} {r:.3f}" for name, r in radii.items()))
    result = {"images": options.images, "channels": dim, "size": size, "radii": radii, "largest_difference": difference}
    write_result(options.out, result | {"rows": rows}, options.device)


if __name__ == "__main__":
    main()
