"""The validation split: its size, its dependence on seed and category, and errors of its amount."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moleflow.data.samples import Sample
from moleflow.data.splits import ValidationSplit
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
