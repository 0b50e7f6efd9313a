"""Patch features of frozen backbones: extraction, pooling and cache."""
