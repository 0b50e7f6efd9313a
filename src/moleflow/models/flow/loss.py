"""Negative log-likelihood of patches and the training loss of the flow."""

import math
from typing import NamedTuple

from torch import Tensor

from moleflow.utils.errors import UserError, check_choice, check_range


def patch_nll(z: Tensor, logdet: Tensor) -> Tensor:
    """Return the negative log-likelihood of each patch in nats.

    The base distribution is standard normal. The result is computed in float32 for every precision of the flow, because
    its two terms are large and nearly cancel.

    Args:
        z: Latents (B, H, W, D).
        logdet: Log-determinants of the Jacobian (B, H, W), summed over the D dimensions.

    Returns:
        (B, H, W) float32, ||z||^2 / 2 + D/2 ln(2 pi) - logdet.
    """
    constant = 0.5 * z.shape[-1] * math.log(2 * math.pi)
    return 0.5 * z.float().square().sum(dim=-1) + constant - logdet.float()


class LossParts(NamedTuple):
    """A loss and its terms; all are float32 scalars."""

    total: Tensor
    """The loss to minimize."""
    mean_nll: Tensor
    """Mean negative log-likelihood of all patches."""
    tail_nll: Tensor
    """Mean over images of the mean of their largest negative log-likelihoods."""
    logdet_penalty: Tensor
    """The penalty term of the total, lambda_logdet times the mean squared log-determinant."""


class FlowLoss:
    """Negative log-likelihood with a tail term and a penalty on the log-determinant.

    With ``reduction="mean"`` the total is (1 - w) mean + w tail + penalty. The tail is the mean over images of the mean
    of the k = max(1, int(N ratio)) largest of the image's N patches. The weight w may exceed 1, as in two recorded runs
    with 1.2, because the total is mean + w (tail - mean) and the tail is never below the mean.

    With ``reduction="sum"`` the total is the batch mean of the sum over patches + penalty. It is about N times larger
    than with ``reduction="mean"``, so the penalty has N times less weight. It has no tail term, hence ``tail_weight``
    must be 0.

    Args:
        tail_weight: w, in [0, 2].
        tail_top_k_ratio: Fraction of an image's patches in its tail, in (0, 1].
        lambda_logdet: Weight of the mean squared log-determinant, at least 0.
        reduction: ``"mean"`` or ``"sum"``.

    Raises:
        UserError: If an argument is outside its range, or ``tail_weight`` is not 0 with ``reduction="sum"``.
    """

    def __init__(
        self,
        tail_weight: float = 0.7,
        tail_top_k_ratio: float = 0.02,
        lambda_logdet: float = 1e-4,
        reduction: str = "mean",
    ) -> None:
        self.reduction = check_choice("loss.reduction", reduction, ("mean", "sum"))
        hint = "It is a fraction of the patches."
        check_range("loss.tail_top_k_ratio", tail_top_k_ratio, 0, 1, hint, low_open=True)
        hint = "It is a weight: 0 is the mean alone, 1 the tail alone; recorded runs have at most 1.2."
        check_range("loss.tail_weight", tail_weight, 0, 2, hint)
        check_range("loss.lambda_logdet", lambda_logdet, 0, high_open=True)
        if reduction == "sum" and tail_weight != 0:
            raise UserError(
                f"loss.tail_weight={tail_weight} must be 0 with loss.reduction=sum, which has no tail term. "
                "Set loss.tail_weight=0 or loss.reduction=mean."
            )
        self.tail_weight = tail_weight
        self.tail_top_k_ratio = tail_top_k_ratio
        self.lambda_logdet = lambda_logdet

    def __call__(self, nll: Tensor, logdet: Tensor) -> LossParts:
        """Return the loss of a batch.

        Args:
            nll: Negative log-likelihoods (B, H, W) from :func:`patch_nll`.
            logdet: Log-determinants (B, H, W).
        """
        patches = nll.float().flatten(1)
        count = patches.shape[1]
        mean_nll = patches.mean()
        largest = patches.topk(max(1, int(count * self.tail_top_k_ratio)), dim=1, sorted=False).values
        tail_nll = largest.mean()  # k is the same for all images, so this is the mean over images of their means
        penalty = self.lambda_logdet * logdet.float().square().mean()
        if self.reduction == "sum":
            fit = patches.sum(dim=1).mean()
        else:
            fit = (1 - self.tail_weight) * mean_nll + self.tail_weight * tail_nll
        return LossParts(fit + penalty, mean_nll, tail_nll, penalty)
