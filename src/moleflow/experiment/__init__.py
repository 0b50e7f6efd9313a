"""Experiments: from a Hydra configuration to a finished run folder."""
