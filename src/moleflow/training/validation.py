"""Validation of a task in training: the NLL of validation images and the overfitting warning."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.jacobian import omitted_log_determinant
from moleflow.models.flow.loss import patch_nll
from moleflow.runs.overfitting import first_overfitting

log = logging.getLogger(__name__)

_BATCH = 8  # images per forward pass


@torch.no_grad()
def validation_nll(flow: ExpertFlow, features: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean NLL of validation images under their experts; an empty mapping without such images.

    Args:
        flow: The flow.
        features: Patch features (N, h, w, D) of the validation images by expert.

    Returns:
        ``held_out_nll``, the mean over all patches as the training loss defines it; and ``held_out_nll_counted``,
        which includes the log-determinant that the loss omits, if that is known. Both in nats per patch.
    """
    total, counted, patches = 0.0, 0.0, 0
    known = True
    for name, images in features.items():
        sums = [float(patch_nll(*flow(x, name)).double().sum()) for x in torch.split(images, _BATCH)]
        size = images[..., 0].numel()
        omitted = omitted_log_determinant(flow, name, (images.shape[1], images.shape[2]))
        known = known and omitted is not None
        total += sum(sums)
        counted += sum(sums) - (omitted or 0.0) * size
        patches += size
    if not patches:
        return {}
    plain = {"held_out_nll": total / patches}
    return plain | ({"held_out_nll_counted": counted / patches} if known else {})


def warn_of_overfitting(history: Sequence[Mapping[str, float]], label: str) -> None:
    """Log a warning if overfitting is first detected in the last epoch, so once per task even if resumed.

    Args:
        history: The task's epochs so far.
        label: The task's label.
    """
    overfitting = first_overfitting(history)
    if overfitting is not None and overfitting.epoch == int(history[-1]["epoch"]):
        log.warning(
            "%s: %s. The model is overfitting. Train for fewer epochs (epochs=%d), lower optimizer.lr, or, with a "
            "trained spatial mixer, set model.spatial_context_mode=blur.",
            label,
            overfitting,
            overfitting.best + 1,
        )
