"""Messages of user errors: range checks, choices, suggestions and prefixes."""

from math import inf, nan
from typing import Any

import pytest

from moleflow.utils.errors import UserError, check_choice, check_range, did_you_mean, list_names, prefix_errors


@pytest.mark.parametrize(
    ("value", "bounds", "options"),
    [
        (1, (1,), {}),
        (inf, (1,), {}),
        (0, (0, 1), {}),
        (1.0, (0, 1), {"low_open": True}),
        (0.0, (0, 1), {"high_open": True}),
        (-5, (-inf, 3), {}),
        (1e300, (0,), {"low_open": True, "high_open": True}),
    ],
)
def test_check_range_accepts_values_in_the_interval(value: float, bounds: Any, options: Any) -> None:
    check_range("key", value, *bounds, **options)


@pytest.mark.parametrize(
    ("value", "bounds", "options", "message"),
    [
        (0, (1,), {}, "key=0 must be at least 1."),
        (0.0, (0,), {"low_open": True}, "key=0.0 must be greater than 0."),
        (inf, (0,), {"low_open": True, "high_open": True}, "key=inf must be greater than 0 and finite."),
        (inf, (0,), {"high_open": True}, "key=inf must be at least 0 and finite."),
        (0, (0, 1), {"low_open": True}, "key=0 must lie in (0, 1]."),
        (1, (0, 1), {"high_open": True}, "key=1 must lie in [0, 1)."),
        (2, (0, 1), {"low_open": True, "high_open": True}, "key=2 must lie in (0, 1)."),
        (4, (-inf, 3), {}, "key=4 must be at most 3."),
        (3, (-inf, 3), {"high_open": True}, "key=3 must be less than 3."),
        (99, (0, 1), {"hint": "99 % is 0.99."}, "key=99 must lie in [0, 1]. 99 % is 0.99."),
    ],
)  # fmt: skip
def test_check_range_names_the_interval(value: float, bounds: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_range("key", value, *bounds, **options)
    assert str(error.value) == message


@pytest.mark.parametrize("bounds", [(-inf,), (0,), (0, 1), (-inf, 1)])
def test_check_range_rejects_nan(bounds: Any) -> None:
    with pytest.raises(UserError, match=r"^key=nan must "):
        check_range("key", nan, *bounds)


def test_check_choice_returns_an_allowed_value_and_suggests_the_closest() -> None:
    assert check_choice("rule", "top_k", ("max", "top_k")) == "top_k"
    with pytest.raises(UserError) as error:
        check_choice("rule", "topk", ("max", "top_k"))
    assert str(error.value) == "rule=topk is unknown. Did you mean 'top_k'? Choose one of: max, top_k."


def test_did_you_mean_is_empty_without_a_close_name() -> None:
    assert did_you_mean("cooky", ["cookie", "screw"]) == " Did you mean 'cookie'?"
    assert did_you_mean("zzz", ["cookie", "screw"]) == ""


def test_prefix_errors_prefixes_only_messages_about_its_own_names() -> None:
    with (
        pytest.raises(UserError, match=r"^transform\.size=0 must be at least 1\.$") as error,
        prefix_errors("transform", ("size",)),
    ):
        check_range("size", 0, 1)
    assert isinstance(error.value.__cause__, UserError)
    for message in ("mode=x is unknown.", "size is missing."):
        with pytest.raises(UserError) as unchanged, prefix_errors("transform", ("size_of",)):
            raise UserError(message)
        assert str(unchanged.value) == message


def test_long_lists_of_names_are_cut() -> None:
    assert list_names(["a", "b"]) == "a, b"
    assert list_names(range(100)).endswith(", 18, 19, ... and 80 more")
    with pytest.raises(UserError) as error:
        check_choice("key", "name7x", [f"name{i}" for i in range(100)])
    assert str(error.value).startswith("key=name7x is unknown. Did you mean 'name7'")
    assert str(error.value).endswith(" and 80 more.")
