"""Continual industrial anomaly detection with a normalizing flow and one expert a product."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moleflow.model import MoLEFlow
    from moleflow.scored import Scored

__version__ = "0.1.0"
__all__ = ["MoLEFlow", "Scored", "__version__"]


def __getattr__(name: str) -> Any:
    """Import torch and the model only when they are asked for, so that light commands start at once."""
    if name in ("MoLEFlow", "Scored"):
        from moleflow import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
