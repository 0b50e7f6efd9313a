"""Flattened configurations and type checks of their values."""

from collections.abc import Sequence
from typing import Any

import pytest
from omegaconf import OmegaConf

from moleflow.utils.config import check_type, flatten_config
from moleflow.utils.errors import UserError


def test_flatten_config_joins_keys_by_dots() -> None:
    config = {"a": 1, "b": {"c": {"d": [2]}, "e": None}, "f": {}}
    assert flatten_config(config) == {"a": 1, "b.c.d": [2], "b.e": None, "f": {}}
    assert flatten_config({"b": {"c": 1}}, "x.") == {"x.b.c": 1}


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (3, int), (3, float), (3.5, float), (True, bool), ("x", str), (None, float | None), (2, float | None),
        (64, int | Sequence[int]), ([64, 96], int | Sequence[int]), (OmegaConf.create([64, 96]), int | Sequence[int]),
        ((0.5, 1), Sequence[float]), (["layer2", 3], Sequence[str | int]), (object(), Any),
        (OmegaConf.create("a: 1e-4").a, float),
    ],
)  # fmt: skip
def test_check_type_accepts_matching_values(value: Any, annotation: Any) -> None:
    check_type("model.key", value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
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
def test_check_type_names_key_and_allowed_types(value: Any, annotation: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_type("model.key", value, annotation)
    assert str(error.value) == f"model.key={message}"
