"""Validation split and shots: sizes, dependence on seed and category, and errors of the amounts."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moleflow.data.samples import Sample
from moleflow.data.splits import Returns, Shots, ValidationSplit, split_training_images
from moleflow.utils.errors import UserError


def samples(count: int, category: str = "bottle") -> list[Sample]:
    return [Sample(Path(f"{category}/{i:03}.png"), category, "train", "good", None) for i in range(count)]


@given(count=st.integers(2, 60), amount=st.sampled_from([0.01, 0.2, 0.5, 1, 1.0, 3]), seed=st.integers(0, 5))
def test_split_is_a_partition_in_the_order_of_the_samples(count: int, amount: float, seed: int) -> None:
    images = samples(count)
    size = max(1, round(amount * count)) if amount < 1 else int(amount)
    if size >= count:
        with pytest.raises(UserError, match=f"must leave at least one of the {count} training images of bottle"):
            ValidationSplit(amount, seed)(images)
        return
    train, validation = ValidationSplit(amount, seed)(images)
    assert len(validation) == size
    assert sorted([*train, *validation], key=lambda sample: sample.path) == images
    assert train == [sample for sample in images if sample not in validation]


def test_split_depends_on_seed_and_category() -> None:
    chosen = {
        (seed, category): [s.path.name for s in ValidationSplit(8, seed)(samples(40, category))[1]]
        for seed in (0, 1)
        for category in "ab"
    }
    assert len({tuple(names) for names in chosen.values()}) == 4


def test_split_of_a_known_seed() -> None:
    """Runs are comparable between versions only if they exclude the same images."""
    names = [sample.path.stem for sample in ValidationSplit(4, 7)(samples(20))[1]]
    assert names == ["002", "006", "012", "018"]


def test_no_validation_images() -> None:
    assert ValidationSplit(0, 0)(samples(40)) == (samples(40), [])
    assert ValidationSplit(3, 0)([]) == ([], [])


@pytest.mark.parametrize("amount", [-0.1, 2.5, 40, "many", float("nan"), float("inf"), None])
def test_invalid_amount_raises(amount: Any) -> None:
    with pytest.raises(UserError, match=f"validation={amount} must"):
        ValidationSplit(amount, 0)(samples(40))


@pytest.mark.parametrize("number", [1, 4, 6])
def test_shots_are_a_seeded_choice(number: int) -> None:
    images = samples(6, "nut")
    chosen = Shots(number, seed=3)(images)
    assert len(set(chosen)) == number
    assert chosen == sorted(chosen, key=images.index)
    assert chosen == Shots(number, seed=3)(images)
    assert set(chosen) <= set(Shots(min(number + 1, 6), seed=3)(images))
    assert len({tuple(Shots(2, seed)(images)) for seed in range(8)}) > 1


def test_shots_do_not_change_the_validation_images() -> None:
    images = samples(6, "nut")
    split = ValidationSplit(2, seed=1)
    training, validation = split_training_images(images, split, Shots(3, seed=1))
    assert validation == split(images)[1]
    assert len(training) == 3
    assert not set(training) & set(validation)
    with pytest.raises(UserError, match=r"dataset\.shots=5 must be at most .* of nut, 4 without validation images"):
        split_training_images(images, split, Shots(5, seed=1))


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_invalid_shots_raise(number: float) -> None:
    with pytest.raises(UserError, match=r"dataset\.shots=.* must be a positive number of images per category, or null"):
        Shots(number, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("amount", "later"), [(0.5, 3), (0.01, 1), (5, 5)])
def test_visits_of_a_returning_category_are_a_partition(amount: float, later: int) -> None:
    images = samples(6, "nut")
    returns = Returns({"nut": amount}, "add", seed=2)
    visits = [returns(images, visit) for visit in (0, 1)]
    assert len(visits[1]) == later
    assert sorted(visits[0] + visits[1], key=images.index) == images
    assert returns(samples(3, "cap"), 0) == samples(3, "cap")
