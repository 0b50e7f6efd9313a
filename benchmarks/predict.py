"""Rate of a trained model from image file to verdict, per category.

    python benchmarks/predict.py RUN IMAGES --threads 1

IMAGES contains one folder per category, such as a data set in the layout of MVTec AD. The test images of a category are
classified as `moleflow predict` does it, without a feature cache: reading, decoding, resizing, network, router, scores
and map, but no files. *Network* is the forward pass of all feature sets of the category's expert alone, on tensors in
memory. An image whose expert has another size than the router needs a second pass of the first network.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from inputs import train_small_run
from side_by_side import (
    Row,
    benchmark_parser,
    comparison_rows,
    parse_args,
    print_table,
    time_alternately,
    write_result,
)
from torch import Tensor

from moleflow.data.image_io import read_image
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.inputs import files_in
from moleflow.detector.predictor import Predictor
from moleflow.features.cache import NullFeatureCache
from moleflow.features.extractor import FeatureExtractor


def main(args: Sequence[str] | None = None) -> None:
    """Classify the images of each category and print the seconds per image."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="finished run; not needed with --smoke")
    parser.add_argument("data", type=Path, nargs="?", metavar="IMAGES", help="folder of the categories")
    parser.add_argument("--images", type=int, default=32, help="images per category")
    options = parse_args(parser, args)
    with tempfile.TemporaryDirectory() as temporary:
        if options.smoke:
            options.run, options.images = train_small_run(Path(temporary)), 2
            options.data = Path(temporary) / "data"
        elif options.data is None:
            parser.error("the arguments RUN and IMAGES are required")
        rows = measure(options.run, options.data, options.images, options.repeats, options.device)
    print_table(rows, {"category": "", "form": "", "seconds": ".4f", "images_per_second": ".1f", "ratio": ".2f"})
    write_result(options.out, {"rows": rows}, options.device)


def measure(run: Path, data: Path, images: int, repeats: int, device: str) -> list[Row]:
    """Return two rows per category.

    Args:
        run: The run.
        data: Folder of the categories.
        images: Images per category.
        repeats: Timed passes over the images.
        device: Where the model computes.
    """
    detector = MoLEFlow.load(run, device)
    predictor = Predictor(detector)
    rows: list[Row] = []
    for record in detector.experts.values():
        category, extractors = record.categories[0], list(record.extractors.values())
        for extractor in (detector.extractor, *extractors):
            extractor.cache = NullFeatureCache()
        files = files_in(data / category / "test")
        files = files[:: -(-len(files) // images)]  # of all kinds of defects
        tensors = [[each.transform(read_image(file))[None].to(device) for file in files] for each in extractors]
        forms: dict[str, Callable[[], object]] = {
            "predict": partial(classify, predictor, files),
            "network": partial(forward, extractors, tensors),
        }
        times = {form: time / len(files) for form, time in time_alternately(forms, repeats, device).items()}
        for row in comparison_rows(times, "network", category=category):
            rows.append(row | {"images_per_second": 1 / row["seconds"]})
    return rows


def classify(predictor: Predictor, files: Sequence[Path]) -> None:
    """Classify image files.

    Raises:
        AssertionError: If a file is not an image.
    """
    for prediction in predictor.stream(files):
        if prediction.verdict == "error":
            raise AssertionError(prediction.error)


def forward(extractors: Sequence[FeatureExtractor], images: Sequence[Sequence[Tensor]]) -> None:
    """Pass prepared images (1, 3, H, W) through the network of each extractor."""
    for extractor, tensors in zip(extractors, images, strict=True):
        for tensor in tensors:
            extractor.backbone(tensor)


if __name__ == "__main__":
    main()
