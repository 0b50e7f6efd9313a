"""How often the rule for unknown images errs: on held-out normals, on defects, and on foreign categories.

    python benchmarks/unknown.py /path/to/data

Needs no training: the router sees the backbone's features. A category is foreign when the router has learned all of the
others.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from moleflow.data.datamodule import FolderDataModule
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.registry import build_component
from moleflow.experiment.compose import compose_config
from moleflow.features.extractor import FeatureExtractor
from moleflow.routing.router import Router
from moleflow.routing.statistics import FeatureStatistics


def main() -> None:
    """Print the rates for several widths of the limit."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("root", type=Path)
    given = made.parse_args()
    config = compose_config(["backbone=efficientnet_lite0", "dataset=folder", f"dataset.root={given.root}"])
    transform = build_component("transform", config.transform)
    data = FolderDataModule(given.root, transform)
    data.setup()
    extractor = FeatureExtractor(build_component("backbone", config.backbone), transform)

    def features(split: str, category: str, label: int) -> Tensor:
        paths = [s.path for s in data.samples(split, category) if s.label == label]  # type: ignore[arg-type]
        return torch.cat([MoLEFlow.image_features(extractor.features([path])) for path in paths])

    train = {c: features("train", c, 0) for c in data.categories}
    normal = {c: features("test", c, 0) for c in data.categories}
    defect = {c: features("test", c, 1) for c in data.categories}
    print("deviations  normals unknown  defects unknown  foreign taken for known")
    for deviations in (2.0, 2.5, 3.0, 4.0, 6.0):
        full = _router(train)
        alarms = torch.cat([_unknown(full, train, normal[c], deviations) for c in train])
        defects = torch.cat([_unknown(full, train, defect[c], deviations) for c in train])
        missed = []
        for foreign in train:
            known = {c: x for c, x in train.items() if c != foreign}
            images = torch.cat((normal[foreign], defect[foreign]))
            missed.append(~_unknown(_router(known), known, images, deviations))
        rates = [float(x.float().mean()) for x in (alarms, defects, torch.cat(missed))]
        print(f"{deviations:10.1f}  {rates[0]:15.3f}  {rates[1]:15.3f}  {rates[2]:23.3f}")


def _router(train: dict[str, Tensor]) -> Router:
    router = Router()
    for name, features in train.items():
        router.add(name, FeatureStatistics.from_features(features))
    return router


def _unknown(router: Router, train: dict[str, Tensor], images: Tensor, deviations: float) -> Tensor:
    """Return for each image whether it is beyond the limit of its nearest expert."""
    held_out = {name: router.leave_one_out_distances(name, train[name]) for name in router.names}
    limit = torch.stack([d.mean() + deviations * d.std() for d in held_out.values()])
    nearest = router.distances(images).min(1)
    return nearest.values > limit[nearest.indices]


if __name__ == "__main__":
    main()
