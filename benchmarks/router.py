"""Cost of the router by number of experts: stored features, against one scatter matrix per expert.

    python benchmarks/router.py --threads 2 --out router.json

Experts of 200 images with 768 channels, one shared covariance. Bytes are those of all experts' statistics. ``load`` is
the first distance of a router that was read from disk, ``add`` the first distance after one more expert, ``route`` the
distances of 32 images. The other side sums a (D, D) matrix per expert whenever one was added, as this router did
before; the distances must be equal, or the benchmark fails. The matrices of a thousand experts (4.7 GB) are not built:
only their size is printed.
"""

from collections.abc import Callable, Sequence

import torch
from side_by_side import Row, assert_close, benchmark_parser, parse_args, print_table, seconds, write_result
from torch import Tensor

from moleflow.routing.router import Router
from moleflow.routing.statistics import FeatureStatistics
from moleflow.utils.random import generator

MAX_MATRICES = 100  # experts up to which the matrices are built as well


class ScatterMatrices:
    """Distances under one shared covariance, from one scatter matrix per expert."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.means: list[Tensor] = []
        self.scatters: list[Tensor] = []

    def add(self, features: Tensor) -> None:
        """Add an expert by the features of its images (N, D)."""
        values = features.double()
        self.counts.append(len(values))
        self.means.append(values.mean(0))
        self.scatters.append((values - self.means[-1]).T @ (values - self.means[-1]))

    def distances(self, features: Tensor) -> Tensor:
        """Return the distances (B, E) of features (B, D)."""
        covariance = torch.zeros_like(self.scatters[0])
        for scatter in self.scatters:
            covariance += scatter / (sum(self.counts) - len(self.counts))
        level = covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
        factor = torch.linalg.cholesky(0.9 * covariance + 0.1 * level)
        gaps = features.double()[:, None] - torch.stack(self.means)
        white = torch.linalg.solve_triangular(factor, gaps.flatten(0, 1).T, upper=False)
        return white.norm(dim=0).reshape(gaps.shape[:2])


def measure(experts: int, features: Callable[[int], Tensor], queries: Tensor) -> Row:
    """Return the cost of a router in both forms.

    Args:
        experts: Number of experts.
        features: Function from the number of an expert to the features (N, D) of its training images.
        queries: Features (B, D) of the images to route.
    """
    router, matrices = Router(), ScatterMatrices()
    for expert in range(experts):
        router.add(str(expert), FeatureStatistics.from_features(features(expert)))
        if experts <= MAX_MATRICES:
            matrices.add(features(expert))
    statistics = [router.statistics(name) for name in router.names]
    row: Row = {
        "experts": experts,
        "statistics_mb": sum(expert.rows.nbytes + expert.mean.nbytes for expert in statistics) / 1e6,
        "matrices_mb": experts * queries.shape[1] ** 2 * 8 / 1e6,
        "load_seconds": seconds(lambda: router.distances(queries[:1])),
        "route_seconds": seconds(lambda: router.distances(queries)),
    }
    router.add("new", FeatureStatistics.from_features(features(experts)))
    row["add_seconds"] = seconds(lambda: router.distances(queries[:1]))
    if experts <= MAX_MATRICES:
        matrices.add(features(experts))
        row["matrices_add_seconds"] = seconds(lambda: matrices.distances(queries[:1]))
        ratio = router.distances(queries) / matrices.distances(queries)
        row["difference"] = assert_close("distances, relative", ratio, torch.ones_like(ratio), 1e-9)
    return row


def main(args: Sequence[str] | None = None) -> None:
    """Measure routers of several sizes and print the table."""
    options = parse_args(benchmark_parser(__doc__), args)
    images, dim, sizes = (4, 16, (3, 5)) if options.smoke else (200, 768, (15, 100, 1000))
    deviations = torch.logspace(0, -2, dim)

    def features(expert: int) -> Tensor:
        draw = generator(0, "benchmark-router", expert)
        return torch.randn(dim, generator=draw) + torch.randn(images, dim, generator=draw) * deviations

    queries = torch.cat([features(expert) for expert in range(-8, 0)])[:32]
    rows = [measure(experts, features, queries) for experts in sizes]
    timed = ("load_seconds", "add_seconds", "matrices_add_seconds", "route_seconds")
    print_table(rows, {"experts": "", "statistics_mb": ".1f", "matrices_mb": ".1f", **dict.fromkeys(timed, ".3f")})
    write_result(options.out, {"routers": rows})


if __name__ == "__main__":
    main()
