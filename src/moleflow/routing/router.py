"""Router, which selects the expert of an image by the distance to the mean of its training images.

Distances are between image features (D,). The scatter of an expert is the (D, D) sum over its training images of
(f - m)(f - m)^T, with the features f of an image and their mean m.

References:
    Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
    2018 (class means with one tied covariance).
    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis
    2004 (shrinkage toward the mean eigenvalue).
    Sherman and Morrison, "Adjustment of an Inverse Matrix Corresponding to a Change in One Element of a Given Matrix",
    Annals of Mathematical Statistics 1950 (leave-one-out distances).
    Woodbury, "Inverting Modified Matrices", Princeton University 1950 (leave-group-out distances).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from moleflow.routing.statistics import FeatureStatistics
from moleflow.utils.errors import UserError, check_choice, check_range

RULES = ("shared_covariance", "per_expert_covariance", "euclidean")
_RIDGE = 1e-5  # the value of the first implementation


@dataclass(frozen=True, eq=False)
class Routing:
    """Experts of a batch of images.

    Attributes:
        experts: Names of the nearest experts of the B images; of equally near ones, the one that was added first.
        margins: (B,) float64, distance to the second nearest expert minus the distance to the nearest; infinite with a
            single expert.
        distances: (B, E) float64, distance of each image to each expert, in the order of ``Router.names``.
    """

    experts: list[str]
    margins: Tensor
    distances: Tensor


class Router:
    """Router to the expert whose mean image features are nearest.

    Rules for the distance between image features and the mean of an expert:

    * ``shared_covariance``: Mahalanobis distance with one covariance for all experts: the sum of their scatters over
      its degrees of freedom, shrunk toward its mean eigenvalue. It is reliable for experts with few images, and all
      distances are on one scale. Every added expert changes all distances. With 1000 experts an image costs one
      triangular solve and 1000 Euclidean distances.
    * ``per_expert_covariance``: Mahalanobis distance with the covariance of each expert + 1e-5 I, the rule of the first
      implementation. If an expert has fewer training images than dimensions, the distance is large for all images
      outside the affine span of its training images, so images of its category are routed to other experts.
    * ``euclidean``: Euclidean distance.

    Covariances are factorized at the first distance after an expert was added. Under ``shared_covariance`` this costs
    the same for every added expert, because the (D, D) sum of the scatters is stored.

    Args:
        rule: One of the rules above.
        shrinkage: Weight in (0, 1] of the mean eigenvalue in the shared covariance.

    Attributes:
        version: Number of changes of the experts; distances of the same version are equal.

    Raises:
        UserError: If the rule is unknown or the shrinkage outside its range.

    Examples:
        >>> router = Router()
        >>> router.add("bottle", FeatureStatistics.from_features(torch.randn(30, 8)))
        >>> router.add("cable", FeatureStatistics.from_features(torch.randn(30, 8) + 5))
        >>> router.route(torch.zeros(1, 8)).experts
        ['bottle']
    """

    def __init__(self, rule: str = "shared_covariance", shrinkage: float = 0.1) -> None:
        self.rule = check_choice("rule", rule, RULES)
        check_range("shrinkage", shrinkage, 0, 1, "At 0 the covariance of few images has no inverse.", low_open=True)
        self.shrinkage = shrinkage
        self.version = 0
        self._statistics: dict[str, FeatureStatistics] = {}
        self._whitened: list[_WhitenedMeans] | None = None
        self._scatter: Tensor | None = None
        self._scatter_count = 0  # number of experts, in order, whose scatters are in the sum

    def __repr__(self) -> str:
        """Return the arguments and the experts."""
        return f"{type(self).__name__}(rule={self.rule!r}, shrinkage={self.shrinkage}, experts={self.names})"

    @property
    def names(self) -> list[str]:
        """Names of the experts in the order in which they were added."""
        return list(self._statistics)

    def add(self, name: str, statistics: FeatureStatistics) -> None:
        """Add an expert.

        Args:
            name: Name of the expert.
            statistics: Statistics of the image features of its training images.

        Raises:
            ValueError: If the name exists, or the features differ in dimension from those of the other experts.
        """
        if name in self._statistics:
            raise ValueError(f"The router has an expert {name!r} already.")
        for other_name, other in self._statistics.items():
            if other.mean.shape != statistics.mean.shape:
                sizes = f"{len(other.mean)} dimensions and {name!r} {len(statistics.mean)}"
                raise ValueError(f"The features of expert {other_name!r} have {sizes}.")
        self._statistics[name] = statistics
        self._whitened = None
        self.version += 1

    def remove(self, name: str) -> None:
        """Remove an expert; distances to the others are those of a router without it.

        Raises:
            KeyError: If there is no such expert.
        """
        del self._statistics[name]
        self._whitened, self._scatter, self._scatter_count = None, None, 0
        self.version += 1

    def statistics(self, name: str) -> FeatureStatistics:
        """Return the feature statistics of an expert.

        Raises:
            KeyError: If there is no such expert.
        """
        return self._statistics[name]

    def distances(self, features: Tensor) -> Tensor:
        """Return the distance of each image to each expert.

        Args:
            features: (B, D) image features.

        Returns:
            (B, E) float64, columns in the order of ``names``, on the device of the statistics.

        Raises:
            ValueError: If there is no expert, or a feature is not finite.
        """
        if self._whitened is None:
            self._whitened = self._factorize()
        values = features.detach().to(self._whitened[0].means)
        if not bool(values.isfinite().all()):
            raise ValueError("A feature is not finite, so the image cannot be routed.")
        return torch.cat([means.distances(values) for means in self._whitened], dim=1)

    def affine_form(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the distances as Euclidean distances after an affine transformation, for exported graphs.

        Returns:
            Triples of center (D,), matrix (D, D) and means (E_i, D), float64: the distances (B, E_i) of values x (B, D)
            are the lengths of ``(x - center) @ matrix - means``; concatenated, they are in the order of ``names``.
        """
        return [means.affine_form() for means in self._factorize()]

    def route(self, features: Tensor) -> Routing:
        """Return the nearest expert of each image, with margins and distances.

        Args:
            features: (B, D) image features.

        Raises:
            ValueError: If there is no expert, or a feature is not finite.
        """
        distances, names = self.distances(features), self.names
        experts = [names[i] for i in distances.argmin(dim=1).tolist()]
        if len(names) == 1:
            return Routing(experts, torch.full_like(distances[:, 0], torch.inf), distances)
        nearest, second = distances.topk(2, dim=1, largest=False).values.unbind(dim=1)
        return Routing(experts, second - nearest, distances)

    def leave_one_out_distances(self, name: str, features: Tensor, groups: Tensor | None = None) -> Tensor:
        """Return the leave-one-out distances of the training images of an expert.

        With groups, the other images of the group are left out as well.

        The leave-one-out distance of an image is its distance to the expert with mean and scatter of the other images.
        Without image f of n, the mean m is ``(n m - f) / (n - 1)``, and the scatter is smaller by
        ``n / (n - 1) (f - m)(f - m)^T``. By the formula of Sherman and Morrison the distance is computed from that
        with the image. Approximation: the degrees of freedom of the covariance, and the mean eigenvalue toward which
        it is shrunk, still include the image.

        Args:
            name: Name of the expert.
            features: (N, D) features from which the expert's statistics were computed.
            groups: Index (N,) of each image's group; None if every image is a group.

        Returns:
            (N,) float64; infinite if the expert has a single image or group.

        Raises:
            ValueError: If there is no such expert, or a feature is not finite.
        """
        if groups is not None:
            return self._leave_group_out_distances(name, features, groups)
        square = self.distances(features)[:, self.names.index(name)].square()
        count = self._statistics[name].count
        if count < 2:
            return torch.full_like(square, torch.inf)
        ratio = count / (count - 1)
        weight = 0.0  # of a scatter in the covariance
        if self.rule == "shared_covariance":
            weight = (1 - self.shrinkage) / _degrees_of_freedom(self._statistics.values())
        elif self.rule == "per_expert_covariance":
            weight = 1 / (count - 1)
        return ratio * (square / (1 - weight * ratio * square).clamp_min(1e-9)).sqrt()

    def _leave_group_out_distances(self, name: str, features: Tensor, groups: Tensor) -> Tensor:
        """Return the distance of each training image to the expert without the images of its group.

        The covariance is ``a S + b I`` with a scatter S. Without a group of g images of the expert's n, and with the
        mean m' of the others, S is smaller by A^T A: the rows of A are f - m of the group's images f, and
        ``sqrt(n - g) (m' - m)``. Its inverse follows from the eigenvectors of S and the formula of Woodbury, so that
        one eigendecomposition serves all groups.
        """
        own, everyone = self._statistics[name], list(self._statistics.values())
        values = features.detach().to(own.mean)
        distances = values.new_full((len(values),), torch.inf)
        shared = self.rule == "shared_covariance"
        scatter = self._scatter_sum() if shared else own.scatter
        eigenvalues, eigenvectors = torch.linalg.eigh(scatter)
        degrees = _degrees_of_freedom(everyone) if shared else own.count - 1
        for group in sorted(set(groups.tolist())):
            rows = groups == group
            rest = own.count - int(rows.sum())
            if rest == 0:
                break
            centered = values[rows] - own.mean
            shift = -centered.sum(0) / rest  # m' - m
            differences = centered - shift
            if self.rule == "euclidean":
                distances[rows] = differences.norm(dim=1)
                continue
            removed = torch.cat((centered, rest**0.5 * shift[None])) @ eigenvectors  # A
            remaining = max(1, degrees - int(rows.sum()))
            scale, ridge = 1 / remaining, _RIDGE
            if shared:
                level = (eigenvalues.sum() - removed.square().sum()) / (remaining * len(eigenvalues))
                scale, ridge = (1 - self.shrinkage) * scale, self.shrinkage * float(level if level > 0 else 1)
            diagonal = scale * eigenvalues.clamp_min(0) + ridge
            rotated = differences @ eigenvectors
            product = rotated / diagonal @ removed.T
            inner = torch.eye(len(removed)).to(removed) - scale * (removed / diagonal) @ removed.T
            correction = scale * (product * torch.linalg.solve(inner, product.T).T).sum(1)
            distances[rows] = ((rotated.square() / diagonal).sum(1) + correction).sqrt()
        return distances

    def _factorize(self) -> list["_WhitenedMeans"]:
        """Return the whitened means whose distances, concatenated, are those of the rule."""
        if not self._statistics:
            raise ValueError("The router has no expert.")
        experts = list(self._statistics.values())
        means = torch.stack([expert.mean for expert in experts])
        match self.rule:
            case "shared_covariance":
                return [_WhitenedMeans(means, self._shared_covariance(experts))]
            case "per_expert_covariance":
                return [_WhitenedMeans(expert.mean[None], _expert_covariance(expert)) for expert in experts]
            case _:
                return [_WhitenedMeans(means, None)]

    def _shared_covariance(self, experts: list[FeatureStatistics]) -> Tensor:
        """Return the (D, D) pooled within-expert covariance, shrunk toward its mean eigenvalue."""
        covariance = self._scatter_sum() / _degrees_of_freedom(experts)
        level = covariance.diagonal().mean()
        if level == 0:  # every expert has a single image: all directions get the same variance
            level = torch.ones_like(level)
        return (1 - self.shrinkage) * covariance + self.shrinkage * level * torch.eye(len(covariance)).to(covariance)

    def _scatter_sum(self) -> Tensor:
        """Return the (D, D) sum of the scatters of all experts; only those of new experts are added."""
        experts = list(self._statistics.values())
        if self._scatter is None:
            self._scatter = experts[0].mean.new_zeros(2 * experts[0].mean.shape)
        for expert in experts[self._scatter_count :]:
            centered = expert.centered
            self._scatter.addmm_(centered.T, centered)
        self._scatter_count = len(experts)
        return self._scatter


def _degrees_of_freedom(experts: Iterable[FeatureStatistics]) -> int:
    """Return the degrees of freedom of the pooled covariance, at least 1."""
    return max(1, sum(expert.count - 1 for expert in experts))


def _expert_covariance(expert: FeatureStatistics) -> Tensor:
    """Return the (D, D) covariance of one expert with a small ridge."""
    covariance = expert.scatter / max(1, expert.count - 1)
    return covariance + _RIDGE * torch.eye(len(covariance)).to(covariance)


class _WhitenedMeans:
    """Means with the same covariance, under which distances are Euclidean distances after whitening.

    Args:
        means: (E, D) float64.
        covariance: (D, D) float64, or None for Euclidean distances.

    Raises:
        UserError: If the covariance is not positive definite.
    """

    def __init__(self, means: Tensor, covariance: Tensor | None) -> None:
        self.means = means
        try:
            self._factor = None if covariance is None else torch.linalg.cholesky(covariance)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise UserError(
                "The covariance of the routing features has no Cholesky factor: the features of the training images "
                "are nearly equal in some directions, or damaged. Use router=shared_covariance, or train again."
            ) from error
        self._whitened = self._whiten(means)

    def distances(self, values: Tensor) -> Tensor:
        """Return the distances (B, E) of values (B, D) to the E means."""
        # The faster mode of cdist squares before it subtracts and loses differences that are small beside the means.
        return torch.cdist(self._whiten(values), self._whitened, compute_mode="donot_use_mm_for_euclid_dist")

    def affine_form(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return center (D,), matrix (D, D) and means (E, D) of :meth:`Router.affine_form`."""
        center = self.means.mean(0)  # smaller values have smaller rounding errors
        matrix = self._whiten(torch.eye(len(center)).to(center))
        return center, matrix, (self.means - center) @ matrix

    def _whiten(self, values: Tensor) -> Tensor:
        """Return values (N, D) multiplied by the inverse Cholesky factor."""
        if self._factor is None:
            return values
        whitened: Tensor = torch.linalg.solve_triangular(self._factor, values.T, upper=False)
        return whitened.T
