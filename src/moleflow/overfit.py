"""Whether training goes on where what is learned no longer holds for new normal pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PATIENCE = 2  # epochs since the best one
_SHARE = 0.1  # of what was gained before, and of what training gained since


@dataclass(frozen=True)
class Overfit:
    """Two epochs of a task between which training and held-out pictures part.

    Attributes:
        best: The epoch at which held-out pictures were likeliest.
        epoch: The later epoch at which that was noticed.
        train: Training NLL at both, in nats a patch.
        held_out: That of held-out pictures at both.
    """

    best: int
    epoch: int
    train: tuple[float, float]
    held_out: tuple[float, float]

    def __str__(self) -> str:
        """Return it as part of a sentence."""
        return (
            f"from epoch {self.best} to {self.epoch} the training NLL went from {self.train[0]:.1f} to "
            f"{self.train[1]:.1f}, but that of held-out normal pictures from {self.held_out[0]:.1f} to "
            f"{self.held_out[1]:.1f}"
        )


def first_overfit(history: Sequence[Mapping[str, float]]) -> Overfit | None:
    """Return the first time that training and held-out pictures part, or None.

    They part at an epoch at least two after the best one for held-out pictures, if the training NLL has fallen since
    while the held-out one rose by a tenth of that fall, and by a tenth of all that it had won before. No unit enters,
    so the rule is the same for every dimension and backbone.

    Args:
        history: A task's epochs with ``epoch``, ``nll_mean`` and ``held_out_nll``, and ``held_out_nll_counted``
            where it is known: a learned mixer that contracts lowers the plain NLL of all pictures alike.
    """
    for end in range(1, len(history) + 1):
        if (found := _parted(history[:end])) is not None:
            return found
    return None


def _parted(history: Sequence[Mapping[str, float]]) -> Overfit | None:
    held = [entry.get("held_out_nll_counted", entry.get("held_out_nll")) for entry in history]
    values = [value for value in held if value is not None]
    if len(values) < len(history):
        return None
    best = values.index(min(values))
    start, now = history[best], history[-1]
    fall, rise = start["nll_mean"] - now["nll_mean"], values[-1] - values[best]
    if len(values) - 1 - best < _PATIENCE or fall <= 0 or rise <= _SHARE * max(fall, values[0] - values[best]):
        return None
    train = (start["nll_mean"], now["nll_mean"])
    return Overfit(int(start["epoch"]), int(now["epoch"]), train, (values[best], values[-1]))
