"""Figures of a finished run: example images, scores, curves and routing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from moleflow.data.image_io import read_image, read_mask
from moleflow.data.samples import Sample
from moleflow.data.transforms import ImageTransform
from moleflow.detector.base import Detector
from moleflow.evaluation.evaluator import CategoryResult
from moleflow.inference.overlay import transformed_image
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.context import RunContext
from moleflow.utils.environment import escape_undecodable
from moleflow.utils.io import atomic_write, shorten_name, write_json
from moleflow.visualization.examples import (
    Example,
    example_strip,
    examples_figure,
    rank_defects,
    select_examples,
)
from moleflow.visualization.plots import (
    heat_map_figure,
    learning_curves,
    roc_and_precision,
    save_figure,
    score_histograms,
)


class ExampleVisualizer(RunCallback):
    """Writes figures into ``pictures/`` of the run folder when the run is complete.

    Args:
        per_kind: Images of each kind (most anomalous, least anomalous, misranked) and category.
    """

    def __init__(self, per_kind: int = 2) -> None:
        self.per_kind = per_kind

    def on_run_complete(self, context: RunContext, metrics: dict[str, Any]) -> None:
        """Draw all figures."""
        folder = context.folder / "pictures"
        results = context.evaluate(context.categories, "figures")
        for category, result in tqdm(results.items(), "figures", leave=False, disable=not context.show_progress):
            name = shorten_name(category.replace("/", "_"))
            _save(self._examples(context, category, result), folder / f"examples_{name}.jpg")
        scores = {escape_undecodable(c): (r.scores.tolist(), [s.label for s in r.samples]) for c, r in results.items()}
        names = [escape_undecodable(task.name) for task in context.tasks]
        _save(score_histograms(scores), folder / "scores.png")
        _save(roc_and_precision(scores), folder / "curves.png")
        _save(learning_curves(context.progress.histories, names), folder / "learning.png")
        experts = metrics["routing"]["experts"]
        shares = [[100 * r.routes.count(e) / len(r.routes) for e in experts] for r in results.values()]
        rows, columns = list(map(escape_undecodable, results)), list(map(escape_undecodable, experts))
        matrix = heat_map_figure(shares, rows, columns, "category", "routed to (%)", 0, (0, 100))
        _save(matrix, folder / "routing.png")
        self._save_defects(context, results, folder)

    def _examples(self, context: RunContext, category: str, result: CategoryResult) -> Figure:
        detector = context.detector
        transform = _transform(detector, category)
        selected = select_examples(result.scores, [sample.label for sample in result.samples], self.per_kind)
        maps = detector.scorer.anomaly_maps(
            [result.patch_scores[i] for _, i in selected], [result.routes[i] for _, i in selected]
        )
        thresholds = {route: detector.thresholds(route) for route in {result.routes[i] for _, i in selected}}
        examples = []
        for (reason, i), anomaly_map in zip(selected, maps, strict=True):
            sample, route = result.samples[i], result.routes[i]
            examples.append(
                Example(
                    image=_image(sample, transform),
                    mask=_mask(sample, transform),
                    anomaly_map=anomaly_map.numpy(),
                    score=float(result.scores[i]),
                    threshold=thresholds[route].score.value,
                    pixel_threshold=thresholds[route].pixel.value,
                    title=escape_undecodable(f"{sample.path.parent.name}/{sample.path.name}"),
                    reason=escape_undecodable(f"{sample.defect}: {reason}"),
                    expert=escape_undecodable(route),
                )
            )
        return examples_figure(escape_undecodable(category), examples)

    def _save_defects(self, context: RunContext, results: Mapping[str, CategoryResult], folder: Path) -> None:
        """Write the best, median and worst separated defects as ``defect_<rank>.jpg``, described in a JSON file."""
        scores = {c: (r.scores.tolist(), [sample.label for sample in r.samples]) for c, r in results.items()}
        descriptions = {}
        for rank, category, i, separation in rank_defects(scores):
            result = results[category]
            sample = result.samples[i]
            strip = defect_strip(context.detector, category, result, i)
            with atomic_write(folder / f"defect_{rank}.jpg") as temporary:
                strip.save(temporary, format="jpeg", quality=85)
            descriptions[rank] = {
                "category": escape_undecodable(category),
                "image": escape_undecodable(f"{sample.path.parent.name}/{sample.path.name}"),
                "defect": escape_undecodable(sample.defect),
                "expert": escape_undecodable(result.routes[i]),
                "score": scores[category][0][i],
                "separation": separation,
                "has_mask": sample.mask is not None,
            }
        write_json(folder / "defects.json", descriptions)


def defect_strip(
    detector: Detector, category: str, result: CategoryResult, index: int, size: int = 192
) -> Image.Image:  # fmt: skip
    """Return a test image, its ground truth and its anomaly map side by side.

    The highest color is that of the highest map value in this image and the one with the highest score of the category.

    Args:
        detector: The detector.
        category: Category of the image.
        result: Result of the category.
        index: Index of the image in the result.
        size: Height in pixels.
    """
    shown = [index, int(result.scores.argmax())]
    maps = detector.scorer.anomaly_maps(
        [result.patch_scores[i] for i in shown], [result.routes[i] for i in shown]
    ).numpy()
    sample, transform = result.samples[index], _transform(detector, category)
    low, high = float(np.quantile(maps, 0.02)), float(maps.max())
    return example_strip(_image(sample, transform), _mask(sample, transform), maps[0], low, high, size)


def _transform(detector: Detector, category: str) -> ImageTransform:
    """Return the transform of a category's expert, which has the proportions of its images."""
    return detector.experts[detector.expert_of(category)].transform


def _image(sample: Sample, transform: ImageTransform) -> NDArray[np.uint8]:
    return transformed_image(read_image(sample.path, transform.input_range), transform)


def _mask(sample: Sample, transform: ImageTransform) -> NDArray[np.bool_] | None:
    return None if sample.mask is None else transform.mask(read_mask(sample.mask)).numpy()


def _save(figure: Figure, path: Path) -> None:
    """Write a figure atomically."""
    with atomic_write(path) as temporary:
        save_figure(figure, temporary, format=path.suffix[1:], dpi=90)
