"""Pictures of a finished run: examples of every category, scores, curves and routing."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from moleflow.data.read import read_mask, read_picture
from moleflow.files import replacing
from moleflow.inference.overlay import shown_picture
from moleflow.inference.predict import limits
from moleflow.report.plots import figure, heat_map_figure, learning_curves, roc_and_precision, score_histograms
from moleflow.training.callbacks import RunCallback
from moleflow.training.evaluation import CategoryResult

if TYPE_CHECKING:
    from moleflow.training.sequence import TaskSequence

log = logging.getLogger(__name__)


class Pictures(RunCallback):
    """Writes ``pictures/`` into the run folder when the run is complete; ``callbacks=progress`` leaves it out.

    Args:
        each: How many pictures of each kind (most anomalous, least anomalous, most wrong) a category shows.
    """

    def __init__(self, each: int = 2) -> None:
        self.each = each

    def on_run_complete(self, run: "TaskSequence", metrics: dict[str, Any]) -> None:
        """Draw everything."""
        folder = run.folder / "pictures"
        results = run.evaluate(run.categories, "pictures")
        for category, result in tqdm(results.items(), "pictures", leave=False, disable=not run.show_progress):
            name = category.replace("/", "_")
            save(examples(run, category, result, self.each), folder / f"examples_{name}.jpg")
        scores = {c: (r.scores.tolist(), [s.label for s in r.samples]) for c, r in results.items()}
        names = [task.name for task in run.tasks]
        save(score_histograms(scores), folder / "scores.png")
        save(roc_and_precision(scores), folder / "curves.png")
        save(learning_curves(run.progress.histories, names), folder / "learning.png")
        experts = metrics["routing"]["experts"]
        shares = [[100 * r.routes.count(e) / len(r.routes) for e in experts] for r in results.values()]
        matrix = heat_map_figure(shares, list(results), experts, "category", "routed to (%)", 0, (0, 100))
        save(matrix, folder / "routing.png")


def chosen(scores: Tensor, labels: Tensor, each: int) -> list[tuple[str, int]]:
    """Return which pictures to show and why: the most and least anomalous, and the most wrong ones.

    Wrong is what stands on the other side: the normal pictures that score highest, the defects that score lowest.

    Args:
        scores: (N,) image scores.
        labels: (N,) 1 for a defect.
        each: How many of a kind.
    """
    order = scores.argsort(descending=True, stable=True).tolist()
    normal, defect = ([i for i in order if bool(labels[i]) == is_defect] for is_defect in (False, True))
    wanted = [("most anomalous", i) for i in order[:each]]
    wanted += [("least anomalous", i) for i in order[::-1][:each]]
    # A normal picture below every defect is not wrong, and the other way round.
    wrong = [("like a defect", i) for i in normal if defect and scores[i] > scores[defect[-1]]][:each]
    wrong += [("like a normal", i) for i in defect[::-1] if normal and scores[i] < scores[normal[0]]][:each]
    taken: dict[int, str] = {}
    for reason, i in [*wrong, *wanted]:
        taken.setdefault(i, reason)
    return sorted(((reason, i) for i, reason in taken.items()), key=lambda pair: -float(scores[pair[1]]))


def examples(run: "TaskSequence", category: str, result: CategoryResult, each: int) -> Figure:
    """Return picture, ground truth, anomaly map and contour of a category's telling pictures, on one scale."""
    labels = torch.tensor([sample.label for sample in result.samples])
    shown = chosen(result.scores, labels, each)
    maps = run.model.anomaly_maps([result.patch_scores[i] for _, i in shown], [result.routes[i] for _, i in shown])
    low, high = float(maps.flatten().quantile(0.02)) if maps.numel() < 2**24 else float(maps.min()), float(maps.max())
    made, axes = figure(1.9 * 4, 2.05 * len(shown), 4, len(shown))
    for row, ((reason, i), anomaly_map) in enumerate(zip(shown, maps, strict=True)):
        sample = result.samples[i]
        cells = axes[4 * row : 4 * row + 4]
        picture = shown_picture(read_picture(sample.path), run.data.transform)
        mask = torch.zeros(picture.shape[:2], dtype=torch.bool)
        if sample.mask is not None:
            mask = run.data.transform.mask(read_mask(sample.mask))
        cells[0].imshow(picture)
        cells[1].imshow(mask.numpy(), cmap="gray", vmin=0, vmax=1)
        drawn = cells[2].imshow(anomaly_map.numpy(), cmap="inferno", vmin=low, vmax=high)
        cells[3].imshow(picture, extent=(0, anomaly_map.shape[1], anomaly_map.shape[0], 0))
        limit = limits(run.model, result.routes[i]).score
        _contour(cells[3], anomaly_map, limit)
        cells[0].set_title(f"{sample.path.parent.name}/{sample.path.name}", fontsize=7, loc="left")
        cells[1].set_title(f"{sample.defect}: {reason}", fontsize=7, loc="left")
        cells[2].set_title(f"score {float(result.scores[i]):.5g}, limit {limit:.5g}", fontsize=7, loc="left")
        cells[3].set_title(f"expert {result.routes[i]}", fontsize=7, loc="left")
        for ax in cells:
            ax.set_axis_off()
    made.set_layout_engine("compressed")  # cells of fixed aspect: no room is left between them and the bar
    made.colorbar(drawn, ax=axes, location="bottom", shrink=0.25, aspect=12, pad=0.01).ax.tick_params(labelsize=6)
    made.suptitle(f"{category}: picture, ground truth, anomaly map, contour where it passes the limit", fontsize=9)
    return made


def save(made: Figure, path: Path) -> None:
    """Write a figure, whole or not at all."""
    with replacing(path) as temporary:
        made.savefig(temporary, format=path.suffix[1:], dpi=90)


def _contour(ax: Axes, anomaly_map: Tensor, level: float) -> None:
    if math.isfinite(level) and float(anomaly_map.min()) < level < float(anomaly_map.max()):
        # White under black: visible on any picture, printed without colours too.
        for colour, width in (("white", 2.4), ("black", 1.0)):
            ax.contour(anomaly_map.numpy(), levels=[level], colors=colour, linewidths=width)
