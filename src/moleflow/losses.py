"""From densities to a loss: negative log-likelihood of patches, its tail, and the log-determinant penalty."""

import math
from typing import NamedTuple

from torch import Tensor

from moleflow.errors import UserError, choice


def patch_nll(z: Tensor, logdet: Tensor) -> Tensor:
    """Return the negative log-likelihood of each patch under a standard normal base, in nats.

    Computed in float32 whatever the precision of the flow: the two terms are large and nearly cancel.

    Args:
        z: (B, h, w, D) latents.
        logdet: (B, h, w) log-determinants of the Jacobian, summed over the D dimensions.

    Returns:
        (B, h, w) float32: ||z||^2 / 2 + D/2 ln(2 pi) - logdet.
    """
    constant = 0.5 * z.shape[-1] * math.log(2 * math.pi)
    return 0.5 * z.float().square().sum(dim=-1) + constant - logdet.float()


class LossParts(NamedTuple):
    """A loss and what it is made of; all are float32 scalars."""

    total: Tensor
    """What is minimised."""
    mean_nll: Tensor
    """Mean negative log-likelihood of all patches."""
    tail_nll: Tensor
    """Mean over pictures of the mean of their largest negative log-likelihoods."""
    logdet_penalty: Tensor
    """The log-determinant term as it enters the total: lambda_logdet times the mean squared log-determinant."""


class FlowLoss:
    """Negative log-likelihood with a tail term and a penalty on the log-determinant.

    With ``reduction="mean"`` the total is (1 - w) mean + w tail + penalty, where tail is the mean over pictures of the
    mean of the k = max(1, int(N ratio)) largest of the picture's N patches. The weight w may exceed 1, as in two
    recorded runs of 1.2: the total is mean + w (tail - mean), and no tail lies below its mean.

    With ``reduction="sum"`` the total is the batch mean of the sum over patches + penalty, about N times larger than
    the mean form, so that the penalty weighs N times less. It has no tail term, hence ``tail_weight`` must be 0.

    Args:
        tail_weight: w, at least 0.
        tail_top_k_ratio: Share of a picture's patches that are its tail, in (0, 1].
        lambda_logdet: Weight of the mean squared log-determinant, at least 0.
        reduction: ``"mean"`` or ``"sum"``.

    Raises:
        UserError: If a value is outside its range, or a tail is asked for with ``reduction="sum"``.
    """

    def __init__(
        self,
        tail_weight: float = 0.7,
        tail_top_k_ratio: float = 0.02,
        lambda_logdet: float = 1e-4,
        reduction: str = "mean",
    ) -> None:
        self.reduction = choice("reduction", reduction, ("mean", "sum"))
        if not 0 < tail_top_k_ratio <= 1:
            raise UserError(f"tail_top_k_ratio={tail_top_k_ratio} must lie in (0, 1]: it is a share of the patches.")
        for name, value in (("tail_weight", tail_weight), ("lambda_logdet", lambda_logdet)):
            if not 0 <= value < math.inf:
                raise UserError(f"{name}={value} must be a number of at least 0.")
        if reduction == "sum" and tail_weight != 0:
            raise UserError(
                f"reduction=sum has no tail term: set tail_weight=0 (it is {tail_weight}), or reduction=mean."
            )
        self.tail_weight = tail_weight
        self.tail_top_k_ratio = tail_top_k_ratio
        self.lambda_logdet = lambda_logdet

    def __call__(self, nll: Tensor, logdet: Tensor) -> LossParts:
        """Return the loss of a batch.

        Args:
            nll: (B, h, w) from ``patch_nll``.
            logdet: (B, h, w) log-determinants.
        """
        patches = nll.float().flatten(1)
        count = patches.shape[1]
        mean_nll = patches.mean()
        largest = patches.topk(max(1, int(count * self.tail_top_k_ratio)), dim=1, sorted=False).values
        tail_nll = largest.mean()  # every picture has the same k, so this is the mean over pictures of their means
        penalty = self.lambda_logdet * logdet.float().square().mean()
        if self.reduction == "sum":
            fit = patches.sum(dim=1).mean()
        else:
            fit = (1 - self.tail_weight) * mean_nll + self.tail_weight * tail_nll
        return LossParts(fit + penalty, mean_nll, tail_nll, penalty)
