"""Error rates of the threshold for unknown images: normal images, defects, and images of untrained categories.

    python benchmarks/unknown.py DATA

No training is needed, because the router uses the backbone's features. Each category in turn is untrained: the router
then has all others.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from inputs import write_tree
from side_by_side import Row, benchmark_parser, parse_args, print_table, write_result
from torch import Tensor

from moleflow.data.datamodule import FolderDataModule
from moleflow.data.samples import Split
from moleflow.detector.base import mean_features
from moleflow.detector.registry import build_component
from moleflow.experiment.compose import compose_config
from moleflow.features.extractor import FeatureExtractor
from moleflow.routing.router import Router
from moleflow.routing.statistics import FeatureStatistics

SMOKE = ("backbone=resnet18", "backbone.pretrained=false", "backbone.dim=16", "transform.size=64")


def main(args: Sequence[str] | None = None) -> None:
    """Print the rates for several thresholds."""
    parser = benchmark_parser(__doc__)
    parser.add_argument(
        "root", type=Path, nargs="?", metavar="DATA", help="root of a data set; not needed with --smoke"
    )
    options = parse_args(parser, args)
    if options.root is None and not options.smoke:
        parser.error("the argument DATA is required")
    with tempfile.TemporaryDirectory() as temporary:
        root = options.root or write_tree(Path(temporary), ("first", "second", "third"), size=64, train=6, test=2)
        backbone = SMOKE if options.smoke else ("backbone=efficientnet_lite0",)
        rows = measure(root, backbone, options.device)
    formats = dict.fromkeys(("normal_unknown", "defective_unknown", "untrained_known"), ".3f")
    print_table(rows, {"deviations": ".1f", **formats})
    write_result(options.out, {"rows": rows}, options.device)


def measure(root: Path, backbone: Sequence[str], device: str) -> list[Row]:
    """Return the error rates for several thresholds.

    Args:
        root: Root of the data set.
        backbone: Overrides that configure the backbone.
        device: Where it computes.
    """
    config = compose_config([*backbone, "dataset=folder", f"dataset.root={root}"])
    transform = build_component("transform", config.transform)
    data = FolderDataModule(root, transform)
    data.setup()
    extractor = FeatureExtractor(build_component("backbone", config.backbone), transform, device=torch.device(device))

    def features(split: Split, category: str, label: int) -> Tensor:
        paths = [sample.path for sample in data.samples(split, category) if sample.label == label]
        return torch.cat([mean_features(extractor.features([path])) for path in paths])

    train = {category: features("train", category, 0) for category in data.categories}
    normal = {category: features("test", category, 0) for category in data.categories}
    defective = {category: features("test", category, 1) for category in data.categories}
    rows: list[Row] = []
    for deviations in (2.0, 2.5, 3.0, 4.0, 6.0):
        router = _router(train)
        untrained_known = []
        for untrained in train:
            trained = {category: values for category, values in train.items() if category != untrained}
            images = torch.cat((normal[untrained], defective[untrained]))
            untrained_known.append(~_is_unknown(_router(trained), trained, images, deviations))
        decisions = {
            "normal_unknown": torch.cat([_is_unknown(router, train, normal[c], deviations) for c in train]),
            "defective_unknown": torch.cat([_is_unknown(router, train, defective[c], deviations) for c in train]),
            "untrained_known": torch.cat(untrained_known),
        }
        rows.append({"deviations": deviations, **{key: float(x.float().mean()) for key, x in decisions.items()}})
    return rows


def _router(train: Mapping[str, Tensor]) -> Router:
    router = Router()
    for name, features in train.items():
        router.add(name, FeatureStatistics.from_features(features))
    return router


def _is_unknown(router: Router, train: Mapping[str, Tensor], images: Tensor, deviations: float) -> Tensor:
    """Return for each image (B,) whether its distance to the nearest expert exceeds the expert's threshold.

    Args:
        router: The router.
        train: Features (N, D) of the training images by expert.
        images: Features (B, D) of the images.
        deviations: Standard deviations between the mean leave-one-out distance and the threshold.
    """
    distances = {name: router.leave_one_out_distances(name, train[name]) for name in router.names}
    thresholds = torch.stack([d.mean() + deviations * d.std() for d in distances.values()])
    nearest = router.distances(images).min(1)
    return nearest.values > thresholds[nearest.indices]


if __name__ == "__main__":
    main()
