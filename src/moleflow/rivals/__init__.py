"""Training-free rivals of the flow: the same features, experts, router, scores, metrics and run folder."""

from moleflow.rivals.memory import PatchMemory
from moleflow.rivals.mixture import PatchMixture
from moleflow.rivals.padim import PositionGaussian

__all__ = ["PatchMemory", "PatchMixture", "PositionGaussian"]
