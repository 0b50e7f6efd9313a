"""Routing: which expert a picture belongs to."""

from moleflow.routing.router import Router
from moleflow.routing.statistics import FeatureStatistics

__all__ = ["FeatureStatistics", "Router"]
