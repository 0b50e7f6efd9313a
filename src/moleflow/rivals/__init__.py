"""Rivals of the method: the same features, experts, router, scores, metrics and run folder."""

from moleflow.rivals.memory import PatchMemory
from moleflow.rivals.mixture import PatchMixture
from moleflow.rivals.one_flow import OneFlow
from moleflow.rivals.padim import PositionGaussian

__all__ = ["OneFlow", "PatchMemory", "PatchMixture", "PositionGaussian"]
