"""Which expert a picture belongs to, by the distance of its feature to what each expert has seen.

Reference: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
NeurIPS 2018 (class means under one tied covariance); Ledoit and Wolf, "A well-conditioned estimator for
large-dimensional covariance matrices", J. Multivariate Analysis 2004 (shrinkage toward the mean eigenvalue).
"""

import torch
from torch import Tensor

from moleflow.errors import UserError, choice, nearest
from moleflow.routing.statistics import FeatureStatistics

RULES = ("pooled", "own", "euclidean")
_OWN_RIDGE = 1e-5  # the first implementation's


class Router:
    """Chooses the expert at the smallest distance.

    Rules:

    * ``pooled``: Mahalanobis distance under one covariance for all experts, pooled from their scatters and shrunk
      toward its mean eigenvalue. Experts with few pictures borrow the spread of the others, all distances are on one
      scale, and a thousand experts cost one triangular solve and a thousand plain distances a picture.
    * ``own``: Mahalanobis distance under each expert's own covariance + 1e-5 I, the first implementation's rule. With
      fewer pictures than dimensions it is the distance to the span of the training pictures: it sends pictures of such
      a category elsewhere.
    * ``euclidean``: distance to the mean.

    Whatever needs factorising is factorised at the first distance after a change. Under ``pooled`` that costs the same
    for the thousandth expert as for the second: a (D, D) sum is kept beside the experts' rows.

    Args:
        rule: One of the above.
        shrinkage: Weight in (0, 1] of the mean eigenvalue in the pooled covariance.

    Raises:
        UserError: If the rule is unknown or the shrinkage outside its range.
    """

    def __init__(self, rule: str = "pooled", shrinkage: float = 0.1) -> None:
        self.rule = choice("rule", rule, RULES)
        if not 0 < shrinkage <= 1:
            raise UserError(f"shrinkage={shrinkage} must lie in (0, 1]: at 0 few pictures have no inverse covariance.")
        self.shrinkage = shrinkage
        self._experts: dict[str, FeatureStatistics] = {}
        self._frames: list[_Frame] | None = None
        self._scatter: Tensor | None = None
        self._summed = 0  # experts, in order of arrival, whose scatter is in the sum

    @property
    def names(self) -> list[str]:
        """The experts in the order in which they came."""
        return list(self._experts)

    def add(self, name: str, statistics: FeatureStatistics) -> None:
        """Make an expert known.

        Raises:
            ValueError: If the name is taken, or the features have another dimension than those of the other experts.
        """
        if name in self._experts:
            raise ValueError(f"The router knows an expert {name!r} already; remove it first.")
        for known, other in self._experts.items():
            if other.mean.shape != statistics.mean.shape:
                sizes = f"{len(other.mean)} dimensions and {name!r} {len(statistics.mean)}"
                raise ValueError(f"The features of expert {known!r} have {sizes}.")
        self._experts[name] = statistics
        self._frames = None

    def statistics(self, name: str) -> FeatureStatistics:
        """Return what is known of an expert.

        Raises:
            KeyError: If there is no such expert.
        """
        return self._experts[name]

    def remove(self, name: str) -> None:
        """Forget an expert; the router is then as if it had never come.

        Raises:
            ValueError: If there is no such expert.
        """
        if name not in self._experts:
            raise ValueError(f"The router knows no expert {name!r}.{nearest(name, self._experts)}")
        del self._experts[name]
        self._frames = self._scatter = None  # a difference of sums would keep a trace in the last digits
        self._summed = 0

    def distances(self, features: Tensor) -> Tensor:
        """Return the distance of each picture to each expert.

        Args:
            features: (B, D) image features.

        Returns:
            (B, E) float64, columns in the order of ``names``, on the device of the statistics.

        Raises:
            ValueError: If there is no expert, or a feature is not finite.
        """
        if self._frames is None:
            self._frames = self._factorise()
        values = features.detach().to(self._frames[0].means)
        if not bool(values.isfinite().all()):
            raise ValueError("A feature is not finite, so the picture has no expert.")
        return torch.cat([frame.distances(values) for frame in self._frames], dim=1)

    def route(self, features: Tensor) -> list[str]:
        """Return the name of the nearest expert for each of the features (B, D); the earlier one on a tie."""
        names = self.names
        return [names[i] for i in self.distances(features).argmin(dim=1).tolist()]

    def margin(self, features: Tensor) -> Tensor:
        """Return how much farther the second expert is than the first, (B,) float64; infinite with a single expert."""
        distances = self.distances(features)
        if distances.shape[1] == 1:
            return torch.full_like(distances[:, 0], torch.inf)
        best, second = distances.topk(2, dim=1, largest=False).values.unbind(dim=1)
        return second - best

    def held_out_distances(self, name: str, features: Tensor) -> Tensor:
        """Return how far each training picture of an expert would be from it, had the expert not seen it.

        Leaving picture f out of n moves the mean to ``(n m - f) / (n - 1)`` and takes ``n / (n - 1) (f - m)(f - m)^T``
        out of the scatter; both follow in closed form from the distance q with the picture (Sherman and Morrison 1950).

        Args:
            name: The expert.
            features: (N, D) the image features it was made known with.

        Returns:
            (N,) float64; infinite where the expert has seen a single picture.
        """
        square = self.distances(features)[:, self.names.index(name)].square()
        count = self._experts[name].count
        if count < 2:
            return torch.full_like(square, torch.inf)
        grown = count / (count - 1)
        share = 0.0
        if self.rule == "pooled":
            share = (1 - self.shrinkage) / max(1, sum(expert.count - 1 for expert in self._experts.values()))
        elif self.rule == "own":
            share = 1 / (count - 1)
        return grown * (square / (1 - share * grown * square).clamp_min(1e-9)).sqrt()

    def _factorise(self) -> list["_Frame"]:
        """Return the frames whose distances, side by side, are the rule's."""
        if not self._experts:
            raise ValueError("The router knows no expert yet.")
        experts = list(self._experts.values())
        means = torch.stack([expert.mean for expert in experts])
        match self.rule:
            case "pooled":
                return [_Frame(means, self._pooled_covariance(experts))]
            case "own":
                return [_Frame(expert.mean[None], _own_covariance(expert)) for expert in experts]
            case _:
                return [_Frame(means, None)]

    def _pooled_covariance(self, experts: list[FeatureStatistics]) -> Tensor:
        """Return the (D, D) covariance within experts, shrunk toward its mean eigenvalue."""
        freedom = max(1, sum(expert.count - 1 for expert in experts))
        if self._scatter is None:
            self._scatter = experts[0].mean.new_zeros(2 * experts[0].mean.shape)
        for expert in experts[self._summed :]:
            centred = expert.centred
            self._scatter.addmm_(centred.T, centred)
        self._summed = len(experts)
        covariance = self._scatter / freedom
        level = covariance.diagonal().mean()
        if level == 0:  # nothing but single pictures: every direction is as good as another
            level = torch.ones_like(level)
        return (1 - self.shrinkage) * covariance + self.shrinkage * level * torch.eye(len(covariance)).to(covariance)


def _own_covariance(expert: FeatureStatistics) -> Tensor:
    """Return the (D, D) covariance of one expert with a small ridge."""
    covariance = expert.scatter / max(1, expert.count - 1)
    return covariance + _OWN_RIDGE * torch.eye(len(covariance)).to(covariance)


class _Frame:
    """Means that share one covariance: distances in it are plain distances after whitening."""

    def __init__(self, means: Tensor, covariance: Tensor | None) -> None:
        self.means = means
        self._factor = None if covariance is None else torch.linalg.cholesky(covariance)
        self._whitened_means = self._whiten(means)

    def distances(self, values: Tensor) -> Tensor:
        """Return the distances (B, E) of values (B, D) to the E means."""
        # The faster form of cdist squares before it subtracts, and so loses what is small beside the means.
        return torch.cdist(self._whiten(values), self._whitened_means, compute_mode="donot_use_mm_for_euclid_dist")

    def _whiten(self, values: Tensor) -> Tensor:
        if self._factor is None:
            return values
        whitened: Tensor = torch.linalg.solve_triangular(self._factor, values.T, upper=False)
        return whitened.T
