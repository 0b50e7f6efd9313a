"""All metrics of one category, gathered batch by batch and across processes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from moleflow.metrics.ranking import auroc, average_precision, rank
from moleflow.metrics.region_overlap import per_region_overlap


class CategoryMetrics(Metric):
    """Image and, where the category has masks, pixel metrics of one category.

    Scores are ranked as they are: torchmetrics' own AUROC and average precision squeeze scores outside [0, 1] through a
    sigmoid, which makes ties of a flow's negative log-likelihoods. State is a float32 map and a bool mask a picture.
    In a distributed run the pictures of all processes are joined, and a process may have none.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    maps: list[Tensor] | Tensor
    masks: list[Tensor] | Tensor
    scores: list[Tensor] | Tensor
    labels: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather, **kwargs})
        for state in ("maps", "masks", "scores", "labels"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, maps: Tensor | None, masks: Tensor | None, scores: Tensor, labels: Tensor) -> None:
        """Take in one batch.

        Args:
            maps: (B, H, W) anomaly maps, or None. Kept only with masks.
            masks: (B, H, W) bool, true on defects, or None for a category without masks.
            scores: (B,) image scores.
            labels: (B,) non-zero for a picture with a defect.

        Raises:
            ValueError: If the shapes don't fit one another, or some batches have masks and others not.
        """
        if scores.ndim != 1 or scores.shape != labels.shape:
            raise ValueError(f"Image scores {tuple(scores.shape)} and labels {tuple(labels.shape)} must be (B,).")
        if masks is not None:
            if maps is None or maps.ndim != 3 or maps.shape != masks.shape or len(maps) != len(scores):
                shape = None if maps is None else tuple(maps.shape)
                raise ValueError(f"Maps {shape} and masks {tuple(masks.shape)} must be (B, H, W) with B={len(scores)}.")
            _append(self.maps, maps.detach().float())
            _append(self.masks, masks.detach().bool())
        _append(self.scores, scores.detach().float())
        _append(self.labels, labels.detach().bool())
        if len(self.masks) not in (0, len(self.labels)):
            raise ValueError("Some batches of the category have masks and others have none.")

    def compute(self) -> dict[str, float]:
        """Return ``image_auroc``, ``image_ap`` and, with masks, ``pixel_auroc``, ``pixel_ap`` and ``pro``.

        A value is nan where only one class is present: a category without a test defect, say.

        Raises:
            ValueError: If no picture came, or a score is NaN.
        """
        scores, labels = _joined(self.scores), _joined(self.labels)
        if not len(scores):
            raise ValueError("No picture of the category was scored, so there is nothing to measure.")
        metrics = {"image_auroc": auroc(scores, labels), "image_ap": average_precision(scores, labels)}
        maps, masks = _joined(self.maps), _joined(self.masks)
        if len(masks):
            if len(masks) != len(labels):
                raise ValueError("Some processes have masks of the category and others have none.")
            ranking = rank(maps, masks)  # one sort serves all three
            standing = ranking.standing()
            metrics["pixel_auroc"] = standing.auroc()
            metrics["pixel_ap"] = standing.average_precision()
            metrics["pro"] = per_region_overlap(maps, masks, ranking=ranking)
        return metrics


def gather(state: Tensor, group: Any = None) -> list[Tensor]:
    """Return the state of every process, in the order of ranks, without those that are empty.

    torchmetrics' own gathering asks every process for the same number of dimensions and dtype, and gives a process
    without a picture a 1-D float32 placeholder that has neither.
    """
    states: list[Tensor] = [state] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(states, state.cpu(), group=group)
    return [other.to(state.device) for other in states if other.numel()] or [state]


def _append(state: list[Tensor] | Tensor, batch: Tensor) -> None:
    assert isinstance(state, list)  # a tensor only between torchmetrics' sync and unsync, where no update comes
    state.append(batch)


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0)
