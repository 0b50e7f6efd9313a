"""Continual industrial anomaly detection with a normalizing flow and one expert per product category."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moleflow.detector.detector import MoLEFlow
    from moleflow.detector.types import ScoredImage

__version__ = "0.2.0"
__all__ = ["MoLEFlow", "ScoredImage", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the detector on first access, so that commands without torch start fast."""
    if name == "MoLEFlow":
        from moleflow.detector.detector import MoLEFlow

        return MoLEFlow
    if name == "ScoredImage":
        from moleflow.detector.types import ScoredImage

        return ScoredImage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
