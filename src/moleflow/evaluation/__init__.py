"""Evaluation of a detector and the content of its result files."""
