"""Bytes of an expert's file, by rank of the LoRA updates and width of the DIA blocks.

    python benchmarks/expert_size.py --out expert_size.json

The file has the expert's part of the flow (updates, input adapter, DIA blocks), and features and scores of its training
images. docs/quality-appendix.md has the metrics of each size on real images.
"""

import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from inputs import new_model
from safetensors.torch import load_file
from side_by_side import Row, benchmark_parser, parse_args, print_table, write_result

from moleflow.detector.types import TrainingScores
from moleflow.utils.random import generator


def expert_size(dim: int, rank: int, dia_ratio: float, images: int) -> Row:
    """Return the bytes of the second expert's file and of its parts.

    Args:
        dim: Channels of a patch.
        rank: Rank of the LoRA updates.
        dia_ratio: Hidden width of the DIA blocks as a fraction of ``dim``.
        images: Training images of the expert.

    Raises:
        AssertionError: If the file is smaller than its tensors.
    """
    model = new_model(
        "backbone=resnet18",  # the size depends on the backbone only through the number of channels
        "backbone.pretrained=false",
        f"backbone.dim={dim}",
        "transform.size=64",
        f"model.lora_rank={rank}",
        f"model.dia_hidden_ratio={dia_ratio}",
    )
    features = torch.randn(images, dim, generator=generator(0, "benchmark", "features"))
    for name in ("first", "later"):
        model.add_expert(name, [name])
        model.register_with_router(name, features)
        model.experts[name].training = TrainingScores(features, features[:, 0], features[:, 0])
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        (file,) = Path(folder).rglob("later.safetensors")
        parts = dict.fromkeys(("model", "training"), 0)
        for key, tensor in load_file(file).items():
            parts[key.split(".")[0]] += tensor.nbytes
        size = file.stat().st_size
    assert size >= sum(parts.values()), "the file is smaller than its tensors"
    return {"dim": dim, "rank": rank, "dia_ratio": dia_ratio, "bytes": size, **parts}


def main(args: Sequence[str] | None = None) -> None:
    """Write the files and print their sizes."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--images", type=int, default=30, help="training images of the expert")
    options = parse_args(parser, args)
    grid = [(32, 4, 0.25)] if options.smoke else list(product((768, 128), (0, 4, 16, 64), (0.125, 0.25, 0.5)))
    rows = [expert_size(dim, rank, ratio, options.images) for dim, rank, ratio in grid]
    print_table(rows, {"dim": "", "rank": "", "dia_ratio": "", "bytes": ",", "model": ",", "training": ","})
    write_result(options.out, {"images": options.images, "rows": rows}, options.device)


if __name__ == "__main__":
    main()
