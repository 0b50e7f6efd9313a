"""Memory of a closed-form fit whose features do not fit into memory, streamed from the feature cache.

    python benchmarks/fit_memory.py --threads 2 --images 2000 --side 56 --dim 768 --out fit_memory.json

The features are generated and written to a feature cache on disk: 2,000 images at 448 pixels and a stride of 8 have
6.3 million patches, 19 GB. *Streamed* is the fit from this cache, with the leave-one-image-out scores of some images,
and the peak memory of the process. Before a time is printed, the memory bank of some images is selected in as many
chunks as that of all, and from all their patches, with several seeds: coverage radius and mean distance to the nearest
selected patch must be equal up to 5 % and the range of the seeds.
"""

import resource
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from side_by_side import Row, benchmark_parser, parse_args, print_table, seconds, write_result
from torch import Tensor

from moleflow.data.transforms import ImageTransform
from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import DiskFeatureCache, FeatureCache
from moleflow.features.extractor import FeatureExtractor
from moleflow.features.stream import FeatureStream
from moleflow.models import batches
from moleflow.models.closed_form.mixture import MixtureModel
from moleflow.models.closed_form.patchcore import PatchCore
from moleflow.models.memory_bank import build_memory_bank, nearest_neighbors
from moleflow.utils.random import generator

_SEEDS = 3
_BATCH = 32  # images per batch, as in a run
MODELS = {"patchcore": PatchCore, "mixture": MixtureModel}


def write_features(folder: Path, images: int, side: int, dim: int, cache: FeatureCache) -> list[Path]:
    """Write files whose features are in the cache, and return their paths.

    A patch is one of 200 centers plus noise. The files are no images; only their content is part of the key.

    Args:
        folder: Folder of the files.
        images: Number of files.
        side: Rows and columns of a patch grid.
        dim: Channels.
        cache: The cache.
    """
    draw = generator(0, "benchmark", "features")
    centers = torch.randn(200, dim, generator=draw)
    noise = torch.randn(2 * side * side, dim, generator=draw) / 2
    paths = []
    for i in range(images):
        paths.append(folder / f"{i}.bin")
        paths[-1].write_text(str(i))
        start = int(torch.randint(side * side, (1,), generator=draw))
        chosen = torch.randint(200, (side * side,), generator=draw)
        scale = 0.5 + torch.rand(side * side, 1, generator=draw)
        cache.store(
            cache.key(paths[-1]),
            (centers[chosen] + scale * noise[start : start + side * side]).reshape(side, side, dim),
        )
    return paths


def coverage(points: Tensor, selected: Tensor) -> tuple[float, float]:
    """Return the largest and the mean distance of points (N, D) to the nearest selected one (K, D)."""
    distances = nearest_neighbors(points, selected).distances
    return float(distances.max()), float(distances.mean())


@contextmanager
def chunk_limit(size: int) -> Iterator[None]:
    """Limit the memory of a chunk, in bytes, within the context."""
    limit, batches.MAX_CHUNK_BYTES = batches.MAX_CHUNK_BYTES, size
    try:
        yield
    finally:
        batches.MAX_CHUNK_BYTES = limit


def selections(points: Tensor, size: int, chunks: int) -> dict[str, list[tuple[float, float]]]:
    """Return the coverage of memory banks selected in chunks and from all points, one per seed.

    Args:
        points: Patch grids (N, h, w, D).
        size: Size of the memory bank.
        chunks: Number of chunks.
    """
    result: dict[str, list[tuple[float, float]]] = {}
    for form, limit in (("chunks", -(-points.nbytes // chunks)), ("all patches", points.nbytes)):
        for seed in range(_SEEDS):
            draw = generator(seed, "benchmark", "selection")
            with chunk_limit(limit):
                bank = build_memory_bank(points.split(1), size, "k_center_greedy", draw)
            result.setdefault(form, []).append(coverage(points.flatten(0, 2), bank.patches))
    return result


def main(args: Sequence[str] | None = None) -> None:
    """Fit from the cache, check the selection in chunks, and print time and memory."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--images", type=int, default=200, help="training images")
    parser.add_argument("--side", type=int, default=56, help="rows and columns of a patch grid")
    parser.add_argument("--dim", type=int, default=768, help="channels")
    parser.add_argument("--size", type=int, default=3000, help="memory-bank patches")
    parser.add_argument("--model", choices=MODELS, default="patchcore", help="the model")
    parser.add_argument("--compared-images", type=int, default=12, help="images of the comparison with all in memory")
    options = parse_args(parser, args)
    limit = batches.MAX_CHUNK_BYTES
    if options.smoke:
        options.images, options.side, options.dim, options.size, options.compared_images = 12, 6, 16, 20, 12
        limit = 4 * options.side**2 * options.dim * 4
    images, size = options.images, options.images * options.side**2 * options.dim * 4
    scored_images = min(images, 32)
    with tempfile.TemporaryDirectory() as temporary, chunk_limit(limit):
        folder = Path(temporary)
        cache = DiskFeatureCache(folder / "cache", {"benchmark": "fit_memory"})
        paths = write_features(folder, images, options.side, options.dim, cache)
        backbone = PatchBackbone("test_resnet", ["layer1"], options.dim, pretrained=False)
        stream = FeatureStream([(FeatureExtractor(backbone, ImageTransform(32), cache), paths)], options.device)
        model = MODELS[options.model](options.dim, options.size).to(options.device)
        model.add_expert("a")
        fit = seconds(lambda: model.fit("a", stream.batches(_BATCH), torch.arange(images)), options.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        def score() -> None:
            for i, grid in enumerate(stream.batches(1, scored_images)):
                model.patch_scores(grid, "a", torch.tensor([i], device=options.device))

        scoring = seconds(score, options.device)
        compared = torch.cat(list(stream.batches(_BATCH, options.compared_images)))
    bank_size = min(options.size, compared[..., 0].numel() // 4)
    covered = selections(compared, bank_size, max(2, -(-size // limit)))
    for i, quantity in enumerate(("radius", "mean distance")):
        in_chunks, together = ([values[i] for values in covered[form]] for form in ("chunks", "all patches"))
        tolerance = max(together) - min(together) + 0.05 * max(together)
        if max(in_chunks) > max(together) + tolerance:
            raise AssertionError(
                f"The {quantity} of the selection in chunks is larger: {in_chunks} against {together}."
            )
    row: Row = {
        "form": f"streamed fit of {options.model}",
        "gigabytes": size / 1e9,
        "seconds": fit,
        "peak_gigabytes": peak / 1e9,
        "seconds_per_scored_image": scoring / scored_images,
    }
    columns = {"form": "", "gigabytes": ".2f", "seconds": ".1f", "peak_gigabytes": ".2f"}
    print_table([row], columns | {"seconds_per_scored_image": ".3f"})
    for form, values in covered.items():
        print(f"{form}: radius and mean distance " + ", ".join(f"{radius:.3f} {mean:.3f}" for radius, mean in values))
    settings = {key: getattr(options, key) for key in ("images", "side", "dim", "size", "model")}
    write_result(options.out, {**settings, "rows": [row], "coverage": covered}, options.device)


if __name__ == "__main__":
    main()
