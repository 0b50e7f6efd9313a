"""Image and pixel metrics of one category, accumulated over batches."""

import torch
from torch import Tensor
from torchmetrics import Metric

from moleflow.metrics.aupro import LOW_FPR_LIMIT, per_region_overlap
from moleflow.metrics.ranking import auroc, average_precision, rank


class CategoryMetrics(Metric):
    """Image metrics and, if the category has masks, pixel metrics of one category.

    Scores are ranked without a transformation: torchmetrics' own AUROC and average precision apply a sigmoid to scores
    outside [0, 1], which makes ties of a flow's negative log-likelihoods. The state holds one float32 map and one bool
    mask per image.

    The metric never gathers states from other processes (``sync_on_compute=False``): in a distributed run one process
    evaluates all images.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    maps: list[Tensor]
    masks: list[Tensor]
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        for state in ("maps", "masks", "scores", "labels"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, maps: Tensor | None, masks: Tensor | None, scores: Tensor, labels: Tensor) -> None:
        """Add one batch.

        Args:
            maps: (B, H, W) anomaly maps, or None. Stored only with masks.
            masks: (B, H, W) bool, true on defects, or None for a category without masks.
            scores: (B,) image scores.
            labels: (B,) non-zero for an image with a defect.

        Raises:
            ValueError: If the shapes do not match, or only some batches have masks.
        """
        if scores.ndim != 1 or scores.shape != labels.shape:
            raise ValueError(f"Image scores {tuple(scores.shape)} and labels {tuple(labels.shape)} must be (B,).")
        if masks is not None:
            if maps is None or maps.ndim != 3 or maps.shape != masks.shape or len(maps) != len(scores):
                shape = None if maps is None else tuple(maps.shape)
                raise ValueError(f"Maps {shape} and masks {tuple(masks.shape)} must be (B, H, W) with B={len(scores)}.")
            self.maps.append(maps.detach().float())
            self.masks.append(masks.detach().bool())
        self.scores.append(scores.detach().float())
        self.labels.append(labels.detach().bool())
        if len(self.masks) not in (0, len(self.labels)):
            raise ValueError("Some batches of the category have masks and others have none.")

    def compute(self) -> dict[str, float]:
        """Return ``image_auroc``, ``image_ap``; with masks ``pixel_auroc``, ``pixel_ap``, ``pro`` and ``pro_5``.

        A value is nan if only one class is present, for example in a category without a test defect.

        Raises:
            ValueError: If there is no image, or a score is NaN.
        """
        if not any(len(batch) for batch in self.scores):
            raise ValueError("The category has no scored image, so its metrics are undefined.")
        scores, labels = torch.cat(self.scores), torch.cat(self.labels)
        metrics = {"image_auroc": auroc(scores, labels), "image_ap": average_precision(scores, labels)}
        if self.masks:
            maps, masks = torch.cat(self.maps), torch.cat(self.masks)
            ranking = rank(maps, masks)  # one sort for all pixel metrics
            counts = ranking.counts()
            metrics["pixel_auroc"] = counts.auroc()
            metrics["pixel_ap"] = counts.average_precision()
            metrics["pro"] = per_region_overlap(maps, masks, ranking=ranking)
            metrics["pro_5"] = per_region_overlap(maps, masks, LOW_FPR_LIMIT, ranking)
        return metrics
