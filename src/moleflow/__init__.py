"""Continual industrial anomaly detection with a normalizing flow and one expert a product."""

__version__ = "0.1.0"
