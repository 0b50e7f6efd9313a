"""Normal pictures kept from all learning, to see whether what is learned holds for new ones."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moleflow.data import Sample
from moleflow.errors import UserError
from moleflow.flow import ExpertFlow
from moleflow.flow.uncounted import uncounted_log_determinant
from moleflow.losses import patch_nll
from moleflow.overfit import first_overfit
from moleflow.randomness import generator

log = logging.getLogger(__name__)


def hold_out(samples: Sequence[Sample], amount: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Part one category's training pictures into those to learn from and those held out, each in their order.

    Args:
        samples: The category's training pictures.
        amount: How many are held out: a share below 1 (of which at least one picture), or a number; 0 for none.
        seed: The run's seed: which ones depends on it and the category alone.

    Raises:
        UserError: If the amount is not allowed or leaves nothing to learn from.
    """
    if not isinstance(amount, int | float) or amount < 0 or (amount > 1 and amount != int(amount)):
        raise UserError(f"held_out={amount} must be a share below 1, or a whole number of pictures a category.")
    if not amount:
        return list(samples), []
    category = samples[0].category
    count = max(1, round(amount * len(samples))) if amount < 1 else int(amount)
    if count >= len(samples):
        raise UserError(
            f"held_out={amount} leaves nothing to learn from of the {len(samples)} training pictures of {category}."
        )
    order = torch.randperm(len(samples), generator=generator(seed, "held out", category)).tolist()
    held = set(order[:count])
    return [s for i, s in enumerate(samples) if i not in held], [s for i, s in enumerate(samples) if i in held]


@torch.no_grad()
def held_out_nll(flow: ExpertFlow, grids: Mapping[str, Tensor]) -> dict[str, float]:
    """Return what a task's experts say of pictures that none of them has learned; nothing, if there are none.

    Args:
        flow: The flow.
        grids: Patch features (N, H, W, D) of the held-out pictures by expert.

    Returns:
        ``held_out_nll``, the mean over all patches in the terms of the training loss; and ``held_out_nll_counted``,
        with the part of the Jacobian that the loss leaves out, where that is known. Both in nats a patch.
    """
    total, counted, patches = 0.0, 0.0, 0
    known = True
    for name, held in grids.items():
        sums = [float(patch_nll(*flow(x, name)).double().sum()) for x in torch.split(held, 8)]
        size = held[..., 0].numel()
        uncounted = uncounted_log_determinant(flow, name, (held.shape[1], held.shape[2]))
        known = known and uncounted is not None
        total += sum(sums)
        counted += sum(sums) - (uncounted or 0.0) * size
        patches += size
    if not patches:
        return {}
    plain = {"held_out_nll": total / patches}
    return plain | ({"held_out_nll_counted": counted / patches} if known else {})


def warn_of_overfit(history: Sequence[Mapping[str, float]], title: str) -> None:
    """Warn if it is in the last epoch that training first parts from held-out pictures: once a task, resumed or not.

    Args:
        history: The task's epochs so far.
        title: How messages call the task.
    """
    found = first_overfit(history)
    if found is not None and found.epoch == int(history[-1]["epoch"]):
        log.warning(
            "%s: %s. It learns what does not hold for new pictures. Stop earlier (epochs=%d), lower optimizer.lr, "
            "or, with a learned mixer, set model.spatial_context_mode=blur.",
            title,
            found,
            found.best + 1,
        )
