"""Scores test pictures after each task: every picture under every expert at most once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from moleflow.data import PictureDataModule, PictureTransform, Sample, read_mask
from moleflow.data.read import picture_size
from moleflow.metrics import CategoryMetrics, pixel_metrics
from moleflow.model import MoLEFlow


@dataclass(frozen=True, eq=False)
class CategoryResult:
    """What came out for one category.

    Attributes:
        samples: The test pictures, N of them.
        routes: Name of the expert that scored each.
        scores: Image scores (N,).
        patch_scores: What the model's ``patches_of`` gave for each.
        metrics: Metrics by name; without masks no pixel metrics, nan where only one class is present.
        routing_accuracy: Share of pictures that went to the category's own expert.
    """

    samples: tuple[Sample, ...]
    routes: tuple[str, ...]
    scores: Tensor
    patch_scores: tuple[Tensor, ...]
    metrics: dict[str, float]
    routing_accuracy: float


@dataclass(eq=False)
class _TestSet:
    """What is kept of a category's test pictures between evaluations."""

    samples: tuple[Sample, ...]
    image_features: Tensor
    masks: Tensor | None
    patch_scores: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    results: dict[tuple[str, ...], CategoryResult] = field(default_factory=dict)


class Evaluator:
    """Evaluates a growing model on the test pictures of the categories it has seen.

    A picture's features are read once an expert, its patch scores under an expert are computed once, and a category is
    measured again only if its routing changed. When the base itself moved, call :meth:`forget`.

    Args:
        model: The model.
        data: The test pictures.
        progress: Whether to show progress bars.
    """

    def __init__(self, model: MoLEFlow, data: PictureDataModule, progress: bool = True) -> None:
        self.model = model
        self.data = data
        self.progress = progress
        self._sets: dict[str, _TestSet] = {}

    def forget(self) -> None:
        """Drop all scores: weights that earlier experts use have changed."""
        self.model.forget_merged()
        for test_set in self._sets.values():
            test_set.patch_scores.clear()
            test_set.results.clear()

    def routed(self, categories: Sequence[str], title: str) -> dict[str, CategoryResult]:
        """Return results with each picture scored by the expert that the router picks."""
        return {
            category: self._result(category, tuple(self.model.router.route(self._set(category).image_features)))
            for category in self._bar(categories, title)
        }

    def oracle(self, categories: Sequence[str], title: str) -> dict[str, CategoryResult]:
        """Return results with each picture scored by its own category's expert."""
        return {
            category: self._result(category, (self.model.expert_of(category),) * len(self._set(category).samples))
            for category in self._bar(categories, title)
        }

    def image_features(self, category: str) -> Tensor:
        """Return what the router sees of a category's test pictures (N, D)."""
        return self._set(category).image_features

    def _bar(self, categories: Sequence[str], title: str) -> Iterable[str]:
        return tqdm(categories, title, leave=False, disable=not self.progress)

    def _set(self, category: str) -> _TestSet:
        if category not in self._sets:
            samples = tuple(self.data.samples("test", category))
            grids = self.model.extractor.features([sample.path for sample in samples])
            masks = None
            if self.data.has_masks(category) and not self.data.native_masks:
                masks = torch.stack([self._mask(sample) for sample in samples])
            self._sets[category] = _TestSet(samples, self.model.image_features(grids), masks)
        return self._sets[category]

    def _mask(self, sample: Sample) -> Tensor:
        if sample.mask is None:
            return torch.zeros(self.model.scoring.map_shape, dtype=torch.bool)
        seen = PictureTransform(self.model.scoring.map_shape, self.data.transform.mode)
        return seen.mask(read_mask(sample.mask))

    def _result(self, category: str, routes: tuple[str, ...]) -> CategoryResult:
        test_set = self._set(category)
        if routes not in test_set.results:
            patches = self._patch_scores(test_set, routes)
            metrics = CategoryMetrics(sync_on_compute=False)  # one process evaluates, each picture once
            scores = self.model.image_scores(patches, routes)
            labels = torch.tensor([sample.label for sample in test_set.samples])
            maps = None if test_set.masks is None else self.model.anomaly_maps(patches, routes)
            metrics.update(maps, test_set.masks, scores, labels)
            values = metrics.compute()
            if self.data.native_masks and self.data.has_masks(category):
                values |= self._native_pixels(test_set.samples, patches, routes)
            own = self.model.expert_of(category)
            accuracy = sum(route == own for route in routes) / len(routes)
            test_set.results = {
                routes: CategoryResult(test_set.samples, routes, scores, patches, values, accuracy),
                **{kept: result for kept, result in test_set.results.items() if len(set(kept)) == 1},
            }
        return test_set.results[routes]

    def _native_pixels(
        self, samples: Sequence[Sample], patches: Sequence[Tensor], routes: Sequence[str]
    ) -> dict[str, float]:
        """Measure maps on the pixels of the files, one picture at a time."""

        def map_of(i: int) -> Tensor:
            seen = self.model.anomaly_maps([patches[i]], [routes[i]])[0]
            return self.data.transform.to_picture(seen, picture_size(samples[i].path))

        def mask_of(i: int) -> Tensor | None:
            path = samples[i].mask
            return None if path is None else torch.from_numpy(np.array(read_mask(path))) > 0

        return pixel_metrics(len(samples), map_of, mask_of)

    def _patch_scores(self, test_set: _TestSet, routes: tuple[str, ...]) -> tuple[Tensor, ...]:
        for expert in dict.fromkeys(routes):
            known = test_set.patch_scores.setdefault(expert, {})
            missing = [i for i, route in enumerate(routes) if route == expert and i not in known]
            if missing:
                paths = [test_set.samples[i].path for i in missing]
                known.update(zip(missing, self.model.patches_of(paths, expert), strict=True))
        return tuple(test_set.patch_scores[route][i] for i, route in enumerate(routes))
