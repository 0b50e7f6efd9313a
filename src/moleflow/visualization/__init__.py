"""Figures of results, diagnostics and example images."""
