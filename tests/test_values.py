"""Values of a wrong kind are told by their whole key, those of the right kind are left alone."""

from collections.abc import Sequence
from typing import Any

import pytest
from omegaconf import OmegaConf

from moleflow.errors import UserError
from moleflow.parts import PARTS, _kinds, build_part
from moleflow.values import check_value

ARGUMENTS = [(target, name) for target, part in PARTS.items() for name, kind in _kinds(part).items() if kind is not str]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, int), (3, float), (3.5, float), (True, bool), ("x", str), (None, float | None), (2, float | None),
        (64, int | Sequence[int]), ([64, 96], int | Sequence[int]), (OmegaConf.create([64, 96]), int | Sequence[int]),
        ((0.5, 1), Sequence[float]), (["layer2", 3], Sequence[str | int]), (object(), Any),
        (OmegaConf.create("a: 1e-4").a, float),
    ],
)  # fmt: skip
def test_what_is_right_is_left_alone(value: Any, kind: Any) -> None:
    check_value("model.key", value, kind)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("abc", int, "abc must be a whole number."),
        (1.5, int, "1.5 must be a whole number."),
        (True, int, "true must be a whole number."),
        ("abc", float, "abc must be a number."),
        (None, float, "null must be a number."),
        ("two", float | None, "two must be a number or null."),
        (1, bool, "1 must be true or false."),
        (3, str | None, "3 must be a text or null."),
        ("big", int | Sequence[int], "big must be a whole number or a list of whole numbers."),
        ([1, "x"], int | Sequence[int], "[1, 'x'] must be a whole number or a list of whole numbers."),
        ("layer2", Sequence[str | int], "layer2 must be a list of texts or whole numbers."),
    ],
)
def test_what_is_wrong_is_told(value: Any, kind: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_value("model.key", value, kind)
    assert str(caught.value) == f"model.key={said}"


@pytest.mark.parametrize(("target", "name"), ARGUMENTS)
def test_every_argument_of_every_part_is_looked_at(target: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"^part\.{name}=.* must be "):
        build_part("part", {"_target_": target, name: {"wrong": 1}})
