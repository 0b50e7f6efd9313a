"""A mixture of Student's t or Gaussians around remembered patches: a memory whose distances are likelihoods.

With few pictures and many kinds of patches neither one Gaussian (one kind) nor a plain memory (every direction counts
alike) fits. Here each remembered patch is the centre of a component, and what is left of a patch beside its centre has
one covariance for all of them, measured between different pictures. Components are Gaussians, or Student's t as in Peel
and McLachlan, "Robust mixture modelling using the t distribution", Statistics and Computing 2000: far out, where
defects are, a t's score grows with the logarithm of the distance, so that one patch does not outweigh its neighbours
when scores are averaged into maps and image scores. Of the mixture's sum the nearest component is taken, as in
hard-assignment clustering; the covariance is shrunk as in Ledoit and Wolf, "A well-conditioned estimator for
large-dimensional covariance matrices", J. Multivariate Analysis 2004. The memory is chosen as in Roth et al., "Towards
Total Recall in Industrial Anomaly Detection", CVPR 2022; a density of what is left beside the nearest normal patch is
also the idea of Yao et al., "ResAD", NeurIPS 2024.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from moleflow.errors import UserError
from moleflow.flow.context import Blur
from moleflow.randomness import generator
from moleflow.rivals.closed_form import ClosedForm
from moleflow.selection import leave_own_out, nearest, remember

_KERNEL = 3
_PICTURES = 8  # whose patches are blurred at a time
_ROWS = 8192  # of a sum of squares held in float64 at a time


class PatchMixture(ClosedForm):
    """Scores the negative log-likelihood of a patch under a mixture of components of one shape, in nats.

    A patch x is blurred, then brought to ``y = (x - m) U L^-p``, with m the mean of the training patches, L (R, R) the
    R largest eigenvalues of their covariance and U (D, R) the eigenvectors: at p = 0 the memory sees plain distances,
    at 1/2 Mahalanobis ones. With c the nearest of K remembered y and S the covariance of y - c over the training
    patches, each against the memory of the other pictures, and ``d^2 = (y - c)^T S^-1 (y - c)``, ``score = e(d^2) +
    ln K + ln det S / 2 + p ln det L``. A Gaussian has ``e = (d^2 + R ln 2 pi) / 2``; Student's t with v degrees of
    freedom and the scale S has ``e = (v + R) / 2 ln(1 + d^2 / v) + R / 2 ln(v pi) + ln G(v / 2) - ln G((v + R) / 2)``
    with the gamma function G. With R = D that is the density of x, else that of its projection on the principal
    directions. The blur's Jacobian, a constant, is not counted.

    Args:
        dim: Channels D of a patch.
        size: Components K of an expert; all patches, if it has fewer.
        rank: Principal directions R that are kept, all D if there are fewer.
        power: p, in [0, 1/2].
        blur: Strength of the blur before everything, in [0, 1]; see :class:`moleflow.flow.context.Blur`.
        shrinkage: Shrinkage of both covariances toward their mean eigenvalue, in (0, 1].
        freedom: Degrees of freedom v of Student's t, above 0; None for Gaussians.
        seed: Seed of the draws.

    Raises:
        UserError: If a value is not allowed.
    """

    def __init__(
        self,
        dim: int,
        size: int = 3000,
        rank: int = 256,
        power: float = 0.25,
        blur: float = 0.2,
        shrinkage: float = 0.01,
        freedom: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__("mean", "metric", "patches", "whitening", "offset", optional=("pictures",))
        if size < 1:
            raise UserError(f"model.size={size} must be at least 1.")
        if rank < 1:
            raise UserError(f"model.rank={rank} must be at least 1; the embedding dimension {dim} keeps all.")
        if not 0 <= power <= 0.5:
            raise UserError(f"model.power={power} must lie in [0, 0.5]: from plain to Mahalanobis distances.")
        if not 0 < shrinkage <= 1:
            raise UserError(f"model.shrinkage={shrinkage} must lie in (0, 1].")
        if freedom is not None and not 0 < freedom < math.inf:
            raise UserError(f"model.freedom={freedom} must be above 0 and finite, or null for Gaussian components.")
        self.dim = dim
        self.size = size
        self.rank = min(rank, dim)
        self.power = power
        self.blur = Blur(_KERNEL, blur)
        self.shrinkage = shrinkage
        self.freedom = freedom
        self.seed = seed

    def compute(self, name: str, features: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """Return mean, metric, memory and the shape of the components; see :meth:`ClosedForm.compute`."""
        mean = torch.stack([x.double().sum(0) for x in self._patches(features)]).sum(0) / features[..., 0].numel()
        metric, scale = self._root((x.double() - mean for x in self._patches(features)), self.power)
        facts = {"mean": mean.float(), "metric": metric.float()}
        rows = torch.cat([(x - facts["mean"]) @ facts["metric"] for x in self._patches(features)])
        y = rows.reshape(*features.shape[:3], -1)
        memory = remember(y, self.size, "greedy", generator(self.seed, "memory", name), pictures)
        own = leave_own_out(y, pictures, memory.pictures)
        gaps = rows - memory.patches[nearest(rows, memory.patches, own).rows]
        whitening, volume = self._root((part.double() for part in torch.split(gaps, _ROWS)), 0.5)
        offset = math.log(len(memory.patches)) + self._normaliser() + scale + volume
        shape = {"whitening": whitening.float(), "offset": offset.float().reshape(1)}
        return facts | memory._asdict() | shape

    def patch_scores(self, x: Tensor, name: str, pictures: Tensor | None = None) -> Tensor:
        """Return negative log-likelihoods in nats; see :meth:`PatchModel.patch_scores`."""
        expert = self.expert(name)
        patches = expert.get_buffer("patches")
        y = ((self.blur(x.float()) - expert.get_buffer("mean")) @ expert.get_buffer("metric")).flatten(0, 2)
        found = nearest(y, patches, leave_own_out(x, pictures, expert.get_buffer("pictures")))
        white = (y - patches[found.rows]) @ expert.get_buffer("whitening")
        scores = self._energy(white.square().sum(1), white.shape[1]) + expert.get_buffer("offset")
        return scores.reshape(x.shape[:3])

    def _energy(self, distance: Tensor, rank: int) -> Tensor:
        """Return what of e depends on the squared distances (N,) in ``rank`` directions."""
        if self.freedom is None:
            return 0.5 * distance
        return 0.5 * (self.freedom + rank) * torch.log1p(distance / self.freedom)

    def _normaliser(self) -> float:
        """Return what of e does not."""
        if self.freedom is None:
            return 0.5 * self.rank * math.log(2 * math.pi)
        half, whole = 0.5 * self.freedom, 0.5 * (self.freedom + self.rank)
        return 0.5 * self.rank * math.log(self.freedom * math.pi) + math.lgamma(half) - math.lgamma(whole)

    def _patches(self, features: Tensor) -> Iterator[Tensor]:
        """Yield the blurred patches (n, D) of a few pictures at a time: all of them are large, and asked for thrice."""
        for few in torch.split(features, _PICTURES):
            yield self.blur(few.float()).flatten(0, 2)

    def _root(self, parts: Iterable[Tensor], power: float) -> tuple[Tensor, Tensor]:
        """Return ``U L^-p`` (C, R) of the rows' shrunk second moments and ``p ln det L``, float64.

        Args:
            parts: (n, C) float64 each, C at least R.
            power: p.
        """
        total, count = torch.zeros(()), 0
        for rows in parts:
            total, count = total.to(rows) + rows.T @ rows, count + len(rows)
        moments = total / count
        level = moments.diagonal().mean() + torch.finfo(torch.float32).tiny  # patches may all be alike
        eye = torch.eye(len(moments), dtype=rows.dtype, device=rows.device)
        values, vectors = torch.linalg.eigh((1 - self.shrinkage) * moments + self.shrinkage * level * eye)
        vectors, values = vectors[:, -self.rank :], values[-self.rank :]  # in ascending order
        return vectors * values**-power, power * values.log().sum()
