"""Metrics that only some data sets define: by group of defects, with saturation thresholds, and per object."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moleflow.data.layouts.base import CategoryScan
from moleflow.data.samples import Sample
from moleflow.metrics.ranking import auroc
from moleflow.metrics.spro import Region, saturated_overlap
from moleflow.runs.metric_names import OBJECT_METRIC


def defined_metrics(scan: CategoryScan) -> set[str]:
    """Return the names of the metrics of `data_set_metrics` that a category has."""
    groups = set(scan.groups.values())
    names = {f"image_auroc_{group}" for group in groups}
    if scan.saturation:
        names |= {"spro"} | {f"spro_{group}" for group in groups}
    return names | ({OBJECT_METRIC} if scan.objects else set())


def data_set_metrics(
    scan: CategoryScan,
    samples: Sequence[Sample],
    scores: Tensor,
    map_of: Callable[[int], Tensor],
    regions_of: Callable[[int], Sequence[Region]],
) -> dict[str, float]:
    """Return the metrics of a category that its data set defines besides those of all data sets.

    * ``image_auroc_<group>``: AUROC of the normal images and those with a defect of the group.
    * ``spro`` and ``spro_<group>``: area under the saturated per-region overlap curve, of all images and of the normal
      images and those with a defect of the group.
    * ``object_auroc``: AUROC of objects with several images. The score of an object is the highest of its images, and
      it has a defect if one of them has.

    Args:
        scan: The files of the category, with groups, saturation thresholds and objects.
        samples: The N test images.
        scores: Image scores (N,).
        map_of: Returns the anomaly map (H, W) of an image.
        regions_of: Returns the defect regions of an image on its map; called only with saturation thresholds.
    """
    labels = torch.tensor([sample.label for sample in samples])
    result: dict[str, float] = {}
    subsets = {"": range(len(samples))} | {
        f"_{group}": [i for i, s in enumerate(samples) if not s.label or scan.groups.get(s.defect) == group]
        for group in dict.fromkeys(scan.groups.values())
    }
    for suffix, subset in subsets.items():
        images = list(subset)
        if suffix:
            result[f"image_auroc{suffix}"] = auroc(scores[images], labels[images])
        if scan.saturation:
            result[f"spro{suffix}"] = saturated_overlap(
                len(images),
                lambda i, images=images: map_of(images[i]),  # type: ignore[misc]
                lambda i, images=images: regions_of(images[i]),  # type: ignore[misc]
            )
    if scan.objects:
        result[OBJECT_METRIC] = _object_auroc([scan.objects[sample.path] for sample in samples], scores, labels)
    return result


def _object_auroc(objects: Sequence[str], scores: Tensor, labels: Tensor) -> float:
    """Return the AUROC of objects by the highest score of their images.

    Args:
        objects: Object of each image.
        scores: Image scores (N,).
        labels: (N,) 1 for an image with a defect.
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys(objects))}
    index = torch.tensor([numbers[name] for name in objects])
    lowest = torch.full((len(numbers),), -torch.inf, dtype=scores.dtype)
    highest = lowest.scatter_reduce(0, index, scores.cpu(), "amax")
    defective = torch.zeros(len(numbers), dtype=labels.dtype).scatter_reduce(0, index, labels, "amax")
    return auroc(highest, defective)
