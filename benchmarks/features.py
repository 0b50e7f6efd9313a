"""Feature pass over image files, against the network's own rate on tensors in memory.

    python benchmarks/features.py --threads 2 --out features.json

EfficientNet-Lite0 at 224 pixels with random weights, on generated JPEG files of 700 pixels. *Network* computes the
prepared tensors one after another, each on all threads; *network, one image per thread* computes one tensor per thread
at a time. *Pass* is what a run does: reading, decoding, resizing, network and cache. *Pass, one thread* decodes
and computes one after another. The features of all forms must be equal to 1e-5 before a time is printed.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from inputs import write_image
from PIL import Image
from side_by_side import (
    Row,
    assert_close,
    benchmark_parser,
    comparison_rows,
    parse_args,
    print_table,
    time_alternately,
    write_result,
)
from torch import Tensor

from moleflow.data.image_io import read_image
from moleflow.data.transforms import ImageTransform
from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import NullFeatureCache
from moleflow.features.extractor import FeatureExtractor
from moleflow.features.parallel import map_on_threads


def main(args: Sequence[str] | None = None) -> None:
    """Check that all forms agree, time them, and print the table."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--images", type=int, default=64, help="number of images")
    options = parse_args(parser, args)
    name, layers, dim, size, side = "tf_efficientnet_lite0", ["blocks.2", "blocks.4"], 128, 224, 700
    if options.smoke:
        name, layers, dim, size, side = "test_resnet", ["layer1", "layer2"], 16, 64, 96
        options.images = 4
    backbone = PatchBackbone(name, layers, dim, pretrained=False)
    transform = ImageTransform(size)
    extractor = FeatureExtractor(backbone, transform, NullFeatureCache(), device=options.device)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        paths = [_write_jpeg(Path(folder) / f"{i}.jpg", side, i) for i in range(options.images)]
        tensors = [transform(read_image(path))[None] for path in paths]

        def network(image: Tensor) -> Tensor:
            return backbone(image.to(extractor.device)).cpu()

        def pass_on_one_thread() -> Tensor:
            torch.set_num_threads(1)
            try:
                return extractor.features(paths)
            finally:
                torch.set_num_threads(threads)

        forms: dict[str, Callable[[], Tensor]] = {
            "network": lambda: torch.cat([network(image) for image in tensors]),
            "network, one image per thread": lambda: torch.cat(
                list(map_on_threads(network, tensors, extractor.device))
            ),
            "pass": lambda: extractor.features(paths),
            "pass, one thread": pass_on_one_thread,
        }
        reference = forms["network"]()
        difference = max(assert_close(f"features, {form}", call(), reference, 1e-5) for form, call in forms.items())
        times = time_alternately(forms, options.repeats, options.device)
    rows: list[Row] = comparison_rows(times, "network, one image per thread")
    for row in rows:
        row["images_per_second"] = options.images / row["seconds"]
    print_table(rows, {"form": "", "seconds": ".2f", "images_per_second": ".1f", "ratio": ".2f"})
    result = {"network": name, "size": size, "images": options.images, "threads": threads}
    write_result(options.out, result | {"largest_difference": difference, "rows": rows}, options.device)


def _write_jpeg(path: Path, side: int, number: int) -> Path:
    """Write a generated image as JPEG, which has less detail than noise, as photographs do."""
    noisy = Image.open(write_image(path.with_suffix(".png"), side // 8, 0, number))
    noisy.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


if __name__ == "__main__":
    main()
