"""Tests of the detection of overfitting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moleflow.runs.overfitting import first_overfitting


def history(
    training: list[float], validation: list[float], counted: list[float] | None = None
) -> list[dict[str, float]]:
    """Return the epochs of a task with these NLLs."""
    pairs = enumerate(zip(training, validation, strict=True))
    epochs = [{"epoch": float(i), "nll_mean": t, "held_out_nll": v} for i, (t, v) in pairs]
    return [e | ({} if counted is None else {"held_out_nll_counted": counted[i]}) for i, e in enumerate(epochs)]


def test_falling_training_and_rising_validation_nll_are_overfitting() -> None:
    overfitting = first_overfitting(history([100, 50, 20, 10, 0], [100, 60, 62, 70, 90]))
    assert overfitting is not None
    assert (overfitting.best, overfitting.epoch) == (1, 3)
    assert (overfitting.train, overfitting.validation) == ((50, 10), (60, 70))
    assert "from epoch 1 to 3 the training NLL fell from 50.0 to 10.0" in str(overfitting)
    # A mixer that contracts lowers all plain NLLs alike; only the counted one rises.
    falling = [200.0, 0, -200, -400]
    assert first_overfitting(history(falling, falling)) is None
    assert first_overfitting(history(falling, falling, [200, 60, 90, 150])) is not None


@pytest.mark.parametrize(
    ("training", "validation"),
    [
        ([100, 50, 20, 10], [100, 60, 40, 35]),  # both fall
        ([100, 50, 20, 10], [100, 60, 61, 62]),  # rises by less than a tenth of the former gain
        ([100, 50, 20], [100, 60, 90]),  # a single epoch after the best one
        ([100, 50, 60, 70], [100, 60, 80, 90]),  # the training NLL rises, too
    ],
)
def test_other_courses_are_no_overfitting(training: list[float], validation: list[float]) -> None:
    assert first_overfitting(history(training, validation)) is None
    assert first_overfitting([{"epoch": float(i), "nll_mean": t} for i, t in enumerate(training)]) is None


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=12))
def test_first_overfitting_does_not_depend_on_later_epochs(values: list[tuple[float, float]]) -> None:
    epochs = history([t for t, _ in values], [v for _, v in values])
    overfitting = first_overfitting(epochs)
    by_length = [first_overfitting(epochs[: i + 1]) for i in range(len(epochs))]
    assert by_length[-1] == overfitting
    if overfitting is not None:
        assert all(each is None for each in by_length[: overfitting.epoch])
        assert all(each == overfitting for each in by_length[overfitting.epoch :])
