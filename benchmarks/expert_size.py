"""Bytes on disk of one expert, from files as the program writes them, by rank and width of the auxiliary blocks.

    python benchmarks/expert_size.py --out expert_size.json

A file holds the flow's part (updates, adapter, auxiliary blocks), the router's statistics and what the expert says of
its training images. What quality each size buys is measured on real images: docs/quality.md.
"""

import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from program import fresh_model
from safetensors.torch import load_file
from side_by_side import Row, parse, parser, show, write

from moleflow.detector.detector import SeenImages
from moleflow.utils.random import generator


def size(dim: int, rank: int, ratio: float, images: int) -> Row:
    """Return the bytes of the second expert's file and of its parts."""
    model = fresh_model(
        "backbone=resnet18",  # an expert's size depends on the features' width alone
        "backbone.pretrained=false",
        f"backbone.dim={dim}",
        "transform.size=64",
        f"model.lora_rank={rank}",
        f"model.dia_hidden_ratio={ratio}",
    )
    features = torch.randn(images, dim, generator=generator(0, "benchmark", "features"))
    for name in ("first", "later"):
        model.add_expert(name, [name])
        model.register_with_router(name, features)
        model.seen[name] = SeenImages(features, features[:, 0])
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        (file,) = Path(folder).rglob("later.safetensors")
        parts = dict.fromkeys(("flow", "router", "seen"), 0)
        for key, tensor in load_file(file).items():
            parts[key.split(".")[0]] += tensor.nbytes
        whole = file.stat().st_size
    assert whole >= sum(parts.values()), "a file is smaller than what is in it"
    return {"dim": dim, "rank": rank, "auxiliary_ratio": ratio, "bytes": whole, **parts}


def main(given: Sequence[str] | None = None) -> None:
    """Write the files, measure them, print and write."""
    made = parser(__doc__)
    made.add_argument("--images", type=int, default=30, help="training images of the expert")
    arguments = parse(made, given)
    grid = product((768, 128), (0, 4, 16, 64), (0.125, 0.25, 0.5))
    rows = [size(*one, arguments.images) for one in ([(32, 4, 0.25)] if arguments.smoke else grid)]
    show(rows, {"dim": "", "rank": "", "auxiliary_ratio": "", "bytes": ",", "flow": ",", "router": ",", "seen": ","})
    write(arguments.out, {"images": arguments.images, "rows": rows}, arguments.device)


if __name__ == "__main__":
    main()
