"""Configurations that no other one exceeds in both image AUROC and pixel AP."""

from collections.abc import Sequence

from moleflow.reports.comparison import ComparisonGroup, Configuration

Point = tuple[Configuration, float, float]
"""Configuration, image AUROC, pixel AP."""


def points(group: ComparisonGroup) -> list[Point]:
    """Return the configurations that have both metrics."""
    return [
        (c, x, y)
        for c in group.configurations
        if (x := c.mean("image_auroc")) is not None and (y := c.mean("pixel_ap")) is not None
    ]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point dominates, in descending order of the first coordinate."""
    front = []
    highest = -float("inf")
    for point in sorted(points, key=lambda p: (-round(p[1], 9), -p[2])):  # means of equal values differ by rounding
        if point[2] > highest:
            front.append(point)
            highest = point[2]
    return front
