"""Detection of overfitting from training and validation likelihoods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PATIENCE = 2  # epochs after the best one
_MIN_RISE = 0.1  # of the former gain in validation NLL, and of the later gain in training NLL


@dataclass(frozen=True)
class Overfitting:
    """Two epochs of a task between which the training NLL falls and the validation NLL rises.

    Attributes:
        best: Epoch with the lowest validation NLL.
        epoch: Later epoch in which overfitting is detected.
        train: Training NLL in both epochs, in nats per patch.
        validation: Validation NLL in both epochs, in nats per patch.
    """

    best: int
    epoch: int
    train: tuple[float, float]
    validation: tuple[float, float]

    def __str__(self) -> str:
        """Return a main clause for use in messages."""
        return (
            f"from epoch {self.best} to {self.epoch} the training NLL fell from {self.train[0]:.1f} to "
            f"{self.train[1]:.1f} while the validation NLL rose from {self.validation[0]:.1f} to "
            f"{self.validation[1]:.1f}"
        )


def first_overfitting(history: Sequence[Mapping[str, float]]) -> Overfitting | None:
    """Return the first overfitting of a task, or None.

    Overfitting is detected in an epoch at least two after the one with the lowest validation NLL, if the training NLL
    has fallen since then and the validation NLL has risen by more than a tenth of that fall and by more than a tenth of
    its own decrease up to the best epoch. The rule has no unit, so it is the same for every feature dimension and
    backbone.

    Args:
        history: The task's epochs with ``epoch``, ``nll_mean`` and ``held_out_nll`` (the validation NLL), and
            ``held_out_nll_counted`` where it is known: a trained spatial mixer that contracts lowers the plain NLL of
            all images alike.
    """
    for end in range(1, len(history) + 1):
        if (overfitting := _at_last_epoch(history[:end])) is not None:
            return overfitting
    return None


def _at_last_epoch(history: Sequence[Mapping[str, float]]) -> Overfitting | None:
    measured = [epoch.get("held_out_nll_counted", epoch.get("held_out_nll")) for epoch in history]
    values = [value for value in measured if value is not None]
    if len(values) < len(history):
        return None
    best = values.index(min(values))
    start, last = history[best], history[-1]
    fall, rise = start["nll_mean"] - last["nll_mean"], values[-1] - values[best]
    if len(values) - 1 - best < _PATIENCE or fall <= 0 or rise <= _MIN_RISE * max(fall, values[0] - values[best]):
        return None
    train = (start["nll_mean"], last["nll_mean"])
    return Overfitting(int(start["epoch"]), int(last["epoch"]), train, (values[best], values[-1]))
