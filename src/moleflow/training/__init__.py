"""Continual training: the loop over tasks and the training of one task."""
