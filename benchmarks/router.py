"""What the router costs as experts come: kept features against a scatter matrix an expert.

    python benchmarks/router.py --threads 2 --out router.json

Experts of 200 images with 768 numbers each, the pooled rule. Bytes are those of all experts' statistics. ``load`` is
the first distance of a router that was read from disk, ``add`` the first distance after one more expert, ``route`` 32
images. The other side sums a (D, D) matrix an expert whenever one was added, as this router did before; both give the
same distances, or the benchmark fails. Matrices of a thousand experts (4.7 GB) are not built: only their size is shown.
"""

from collections.abc import Callable, Sequence

import torch
from side_by_side import Row, agree, parse, parser, seconds, show, write
from torch import Tensor

from moleflow.routing.router import Router
from moleflow.routing.statistics import FeatureStatistics
from moleflow.utils.random import generator

BUILT = 100  # experts up to which the matrices are built too


class Matrices:
    """The pooled rule on one scatter matrix an expert."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.means: list[Tensor] = []
        self.scatters: list[Tensor] = []

    def add(self, features: Tensor) -> None:
        """Make an expert of images (N, D) known."""
        values = features.double()
        self.counts.append(len(values))
        self.means.append(values.mean(0))
        self.scatters.append((values - self.means[-1]).T @ (values - self.means[-1]))

    def distances(self, features: Tensor) -> Tensor:
        """Return the distances (B, E)."""
        covariance = torch.zeros_like(self.scatters[0])
        for scatter in self.scatters:
            covariance += scatter / (sum(self.counts) - len(self.counts))
        level = covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
        factor = torch.linalg.cholesky(0.9 * covariance + 0.1 * level)
        gaps = features.double()[:, None] - torch.stack(self.means)
        white = torch.linalg.solve_triangular(factor, gaps.flatten(0, 1).T, upper=False)
        return white.norm(dim=0).reshape(gaps.shape[:2])


def measured(experts: int, features: Callable[[int], Tensor], queries: Tensor) -> Row:
    """Return what a router of that many experts costs, in both forms.

    Args:
        experts: How many.
        features: Returns the training images (N, D) of the expert of a number.
        queries: Images to route (B, D).
    """
    router, matrices = Router(), Matrices()
    for expert in range(experts):
        router.add(str(expert), FeatureStatistics.from_features(features(expert)))
        if experts <= BUILT:
            matrices.add(features(expert))
    kept = [router.statistics(name) for name in router.names]
    row: Row = {
        "experts": experts,
        "kept_mb": sum(one.rows.nbytes + one.mean.nbytes for one in kept) / 1e6,
        "matrices_mb": experts * queries.shape[1] ** 2 * 8 / 1e6,
        "load_seconds": seconds(lambda: router.distances(queries[:1])),
        "route_seconds": seconds(lambda: router.distances(queries)),
    }
    router.add("new", FeatureStatistics.from_features(features(experts)))
    row["add_seconds"] = seconds(lambda: router.distances(queries[:1]))
    if experts <= BUILT:
        matrices.add(features(experts))
        row["matrices_add_seconds"] = seconds(lambda: matrices.distances(queries[:1]))
        ratio = router.distances(queries) / matrices.distances(queries)
        row["difference"] = agree("distances, relative", ratio, torch.ones_like(ratio), 1e-9)
    return row


def main(given: Sequence[str] | None = None) -> None:
    """Print the table and write it."""
    arguments = parse(parser(__doc__), given)
    images, dimension, sizes = (4, 16, (3, 5)) if arguments.smoke else (200, 768, (15, 100, 1000))
    spread = torch.logspace(0, -2, dimension)

    def features(expert: int) -> Tensor:
        draw = generator(0, "benchmark-router", expert)
        return torch.randn(dimension, generator=draw) + torch.randn(images, dimension, generator=draw) * spread

    queries = torch.cat([features(expert) for expert in range(-8, 0)])[:32]
    rows = [measured(experts, features, queries) for experts in sizes]
    timed = ("load_seconds", "add_seconds", "matrices_add_seconds", "route_seconds")
    show(rows, {"experts": "", "kept_mb": ".1f", "matrices_mb": ".1f", **dict.fromkeys(timed, ".3f")})
    write(arguments.out, {"routers": rows})


if __name__ == "__main__":
    main()
