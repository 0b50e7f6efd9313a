"""The method's learning-rate schedule."""

import math


def learning_rate_factor(epoch: int, epochs: int, warmup: bool, final_ratio: float = 0.01) -> float:
    """Return the factor on the peak learning rate for one epoch.

    Cosine from 1 to ``final_ratio`` over ``epochs``. With warm-up (tasks after the first) epoch 0 runs at one half,
    epoch 1 at the peak, and the cosine begins at epoch 2, so that it ends two epochs early.

    Args:
        epoch: Epoch of the task, from 0.
        epochs: Epochs of the task.
        warmup: Whether the task warms up.
        final_ratio: Last learning rate over the peak.
    """
    if warmup and epoch == 0:
        return 0.5
    position = max(epoch - 2, 0) if warmup else epoch
    return final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * position / epochs))
