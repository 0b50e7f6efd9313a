"""Exact ranking, localization and continual-learning metrics."""
