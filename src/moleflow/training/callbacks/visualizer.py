"""Figures of a finished run: example images, scores, curves and routing."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from moleflow.data.image_io import read_image, read_mask
from moleflow.evaluation.evaluator import CategoryResult
from moleflow.inference.overlay import transformed_image
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.context import RunContext
from moleflow.utils.environment import escape_undecodable
from moleflow.utils.io import atomic_write, shorten_name
from moleflow.visualization.examples import Example, examples_figure, select_examples
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

    def _examples(self, context: RunContext, category: str, result: CategoryResult) -> Figure:
        detector = context.detector
        transform = detector.experts[detector.expert_of(category)].transform  # has the proportions of its images
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
                    image=transformed_image(read_image(sample.path, transform.input_range), transform),
                    mask=None if sample.mask is None else transform.mask(read_mask(sample.mask)).numpy(),
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


def _save(figure: Figure, path: Path) -> None:
    """Write a figure atomically."""
    with atomic_write(path) as temporary:
        save_figure(figure, temporary, format=path.suffix[1:], dpi=90)
