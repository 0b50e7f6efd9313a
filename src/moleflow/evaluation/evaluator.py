"""Evaluation on the test images after each task: each image is scored at most once per expert."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from moleflow.data.datamodule import ImageDataModule
from moleflow.data.image_io import image_size, read_mask
from moleflow.data.samples import Sample
from moleflow.data.saturation import read_regions
from moleflow.data.transforms import ImageTransform
from moleflow.detector.base import Detector
from moleflow.evaluation.groups import data_set_metrics
from moleflow.metrics.category import CategoryMetrics
from moleflow.metrics.decisions import decision_metrics
from moleflow.metrics.spro import Region
from moleflow.metrics.streaming import pixel_metrics


@dataclass(frozen=True, eq=False)
class CategoryResult:
    """Scores and metrics of one category.

    Attributes:
        samples: The N test images.
        routes: Name of the expert that scored each image.
        scores: Image scores (N,).
        patch_scores: Patch scores of each image, as the detector's scorer returns them.
        metrics: Metrics by name; without masks no pixel metrics, nan if only one class is present.
        routing_accuracy: Share of images that were scored by an expert of the category.
    """

    samples: tuple[Sample, ...]
    routes: tuple[str, ...]
    scores: Tensor
    patch_scores: tuple[Tensor, ...]
    metrics: dict[str, float]
    routing_accuracy: float

    def all_metrics(self) -> dict[str, float]:
        """Return the metrics together with ``routing_accuracy``."""
        return {**self.metrics, "routing_accuracy": self.routing_accuracy}


@dataclass(eq=False)
class _TestSet:
    """Data of a category that are cached between evaluations."""

    samples: tuple[Sample, ...]
    image_features: Tensor
    masks: Tensor | None
    patch_scores: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    regions: dict[int, list[Region]] = field(default_factory=dict)
    results: dict[tuple[str, ...], CategoryResult] = field(default_factory=dict)


class Evaluator:
    """Evaluates a detector, whose experts increase in number, on the test images of trained categories.

    An image's features are read once per expert and its patch scores under an expert are computed once. A category is
    measured again only if its routing has changed. After an update of shared weights, call :meth:`clear`.

    Args:
        detector: The detector.
        data: The data module with the test images.
        progress: Whether to show progress bars.
    """

    def __init__(self, detector: Detector, data: ImageDataModule, progress: bool = True) -> None:
        self.detector = detector
        self.data = data
        self.progress = progress
        self._sets: dict[str, _TestSet] = {}

    def clear(self) -> None:
        """Drop all scores, after weights that earlier experts use have changed."""
        self.detector.scorer.clear_merged_cache()
        for test_set in self._sets.values():
            test_set.patch_scores.clear()
            test_set.results.clear()

    def routed(self, categories: Sequence[str], title: str) -> dict[str, CategoryResult]:
        """Return the results with each image scored by the expert that the router chooses."""
        return {
            category: self._result(category, tuple(self.detector.router.route(self.image_features(category)).experts))
            for category in self._bar(categories, title)
        }

    def oracle(self, categories: Sequence[str], title: str) -> dict[str, CategoryResult]:
        """Return the results with each image scored by the expert of its true category.

        If a category has returned and has several experts, it is the one of them that is nearest to the image.
        """
        return {category: self._result(category, self._oracle(category)) for category in self._bar(categories, title)}

    def _oracle(self, category: str) -> tuple[str, ...]:
        """Return the expert of the true category of each test image."""
        names, router = self.detector.experts_of(category), self.detector.router
        if len(names) == 1:
            return (names[0],) * len(self._set(category).samples)
        columns = [router.names.index(name) for name in names]
        nearest = router.distances(self.image_features(category))[:, columns].argmin(1)
        return tuple(names[i] for i in nearest.tolist())

    def image_features(self, category: str) -> Tensor:
        """Return the image features (N, D) of a category's test images, by which they are routed."""
        return self._set(category).image_features

    def decisions(self, category: str, result: CategoryResult) -> dict[str, float]:
        """Return the metrics of the decisions on a category's test images.

        See :func:`~moleflow.metrics.decisions.decision_metrics`. The thresholds are those of the expert that scored the
        image, at the default rates.

        Args:
            category: The category.
            result: Its result.
        """
        detector = self.detector
        thresholds = {route: detector.thresholds(route) for route in set(result.routes)}
        distances = detector.router.distances(self.image_features(category)).tolist()
        columns = [detector.router.names.index(route) for route in result.routes]
        limits = [thresholds[route].distance.value for route in result.routes]
        unknown = [
            limit is not None and row[column] > limit
            for row, column, limit in zip(distances, columns, limits, strict=True)
        ]
        return decision_metrics(
            result.scores.numpy(),
            [sample.label for sample in result.samples],
            [thresholds[route].score.value for route in result.routes],
            unknown,
        )

    def _bar(self, categories: Sequence[str], title: str) -> Iterable[str]:
        return tqdm(categories, title, leave=False, disable=not self.progress)

    def _set(self, category: str) -> _TestSet:
        if category not in self._sets:
            samples = tuple(self.data.samples("test", category))
            image_features = self.detector.image_features([sample.path for sample in samples])
            masks = None
            if self.data.has_masks(category) and not self.data.full_masks:
                masks = torch.stack([self._mask(sample) for sample in samples])
            self._sets[category] = _TestSet(samples, image_features, masks)
        return self._sets[category]

    def _mask(self, sample: Sample) -> Tensor:
        if sample.mask is None:
            return torch.zeros(self.detector.scorer.map_shape, dtype=torch.bool)
        return self._map_transform().mask(read_mask(sample.mask))

    def _map_transform(self) -> ImageTransform:
        """Return the transform of masks to the anomaly maps."""
        return ImageTransform(self.detector.scorer.map_shape, self.data.transform.mode)

    def _result(self, category: str, routes: tuple[str, ...]) -> CategoryResult:
        test_set = self._set(category)
        if routes not in test_set.results:
            scorer = self.detector.scorer
            patches = self._patch_scores(test_set, routes)
            scores = scorer.image_scores(patches, routes)
            maps = None if test_set.masks is None else scorer.anomaly_maps(patches, routes)
            labels = torch.tensor([sample.label for sample in test_set.samples])
            metrics = CategoryMetrics()
            metrics.update(maps, test_set.masks, scores, labels)
            values = metrics.compute()
            if self.data.full_masks and self.data.has_masks(category):
                values |= self._full_pixel_metrics(test_set.samples, patches, routes)
            values |= self._data_set_metrics(category, scores, patches, routes, maps)
            experts = self.detector.experts_of(category)
            accuracy = sum(route in experts for route in routes) / len(routes)
            test_set.results = {
                routes: CategoryResult(test_set.samples, routes, scores, patches, values, accuracy),
                **{other: result for other, result in test_set.results.items() if len(set(other)) == 1},
            }
        return test_set.results[routes]

    def _full_pixel_metrics(
        self, samples: Sequence[Sample], patches: Sequence[Tensor], routes: Sequence[str]
    ) -> dict[str, float]:
        """Return the pixel metrics over all pixels of the image files, with one image in memory at a time."""

        def mask_of(i: int) -> Tensor | None:
            path = samples[i].mask
            return None if path is None else torch.from_numpy(np.array(read_mask(path))) > 0

        return pixel_metrics(len(samples), lambda i: self._full_map(samples[i], patches[i], routes[i]), mask_of)

    def _full_map(self, sample: Sample, patch_scores: Tensor, expert: str) -> Tensor:
        """Return the anomaly map (H, W) of an image at the size of its file."""
        anomaly_map = self.detector.scorer.anomaly_maps([patch_scores], [expert])[0]
        return self.data.transform.to_image(anomaly_map, image_size(sample.path))

    def _data_set_metrics(
        self, category: str, scores: Tensor, patches: Sequence[Tensor], routes: Sequence[str], maps: Tensor | None
    ) -> dict[str, float]:
        """Return the metrics that the category's data set defines; see `data_set_metrics`.

        Args:
            category: The category.
            scores: Image scores (N,).
            patches: Patch scores of the N images.
            routes: Expert of each image.
            maps: Anomaly maps (N, H, W); None if pixels of the image files are measured, or there are no masks.
        """
        test_set = self._set(category)

        def map_of(i: int) -> Tensor:
            return self._full_map(test_set.samples[i], patches[i], routes[i]) if maps is None else maps[i]

        scan = self.data.scan(category)
        return data_set_metrics(scan, test_set.samples, scores, map_of, lambda i: self._regions(category, i))

    def _regions(self, category: str, index: int) -> list[Region]:
        """Return the defect regions of a test image on its anomaly map, without those that the transform removes.

        The saturation threshold of a region is the same share of its pixels as in the mask file.
        """
        sample, regions = self._set(category).samples[index], self._set(category).regions
        if sample.mask is None:
            return []
        if index in regions:
            return regions[index]
        transform = self._map_transform()
        result = []
        for region in read_regions(sample.mask, self.data.scan(category).saturation):
            mask = torch.from_numpy(np.array(region.mask)) > 0 if self.data.full_masks else transform.mask(region.mask)
            pixels = mask.flatten().nonzero().squeeze(1)
            if len(pixels):
                result.append(Region(pixels, region.share * len(pixels)))
        if not self.data.full_masks:  # regions of whole image files would fill the memory
            regions[index] = result
        return result

    def _patch_scores(self, test_set: _TestSet, routes: tuple[str, ...]) -> tuple[Tensor, ...]:
        for expert in dict.fromkeys(routes):
            known = test_set.patch_scores.setdefault(expert, {})
            missing = [i for i, route in enumerate(routes) if route == expert and i not in known]
            if missing:
                paths = [test_set.samples[i].path for i in missing]
                known.update(zip(missing, self.detector.scorer.score_images(paths, expert), strict=True))
        return tuple(test_set.patch_scores[route][i] for i, route in enumerate(routes))
