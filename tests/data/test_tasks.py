"""Named orders of categories, and their split into tasks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moleflow.data.tasks import ORDERS, shuffled, split_into_tasks
from moleflow.utils.errors import UserError


@pytest.mark.parametrize(
    ("scenario", "sizes"),
    [
        ("1-1", [1] * 15),
        ("3-3", [3] * 5),
        ("5-5", [5] * 3),
        ("10-5", [10, 5]),
        ("10-1", [10, 1, 1, 1, 1, 1]),
        ("14-1", [14, 1]),
        ("15-1", [15]),
        ("4-4", [4, 4, 4, 3]),
    ],
)
def test_documented_scenarios_of_fifteen_categories(scenario: str, sizes: list[int]) -> None:
    assert [len(task.categories) for task in split_into_tasks(ORDERS["mvtec"], scenario)] == sizes


@given(count=st.integers(1, 20), base=st.integers(1, 20), step=st.integers(1, 25))
def test_tasks_contain_all_categories_in_order_and_have_unique_names(count: int, base: int, step: int) -> None:
    categories = [f"c{number}" for number in range(count)]
    if base > count:
        with pytest.raises(UserError, match=f"there are only {count}"):
            split_into_tasks(categories, f"{base}-{step}")
        return
    tasks = split_into_tasks(categories, f"{base}-{step}")
    assert [category for task in tasks for category in task.categories] == categories
    assert [task.index for task in tasks] == list(range(len(tasks)))
    assert len({task.name for task in tasks}) == len(tasks)
    assert len(tasks[0].categories) == base
    assert {len(task.categories) for task in tasks[1:-1]} <= {step}
    assert all(1 <= len(task.categories) <= step for task in tasks[1:])


def test_task_names_are_joined_and_shortened() -> None:
    assert [task.name for task in split_into_tasks(["a", "b", "c"], "2-1")] == ["a+b", "c"]
    assert split_into_tasks(ORDERS["mvtec"], "10-5")[0].name == "bottle+8more+screw"


@pytest.mark.parametrize("scenario", ["", "1", "1-", "-1", "0-1", "1-0", "1-1-1", "a-b", "1.5-1", " 1-1", "1_1"])
def test_malformed_scenario_raises(scenario: str) -> None:
    with pytest.raises(UserError, match=r"must be two positive integers.*10-5"):
        split_into_tasks(["a", "b"], scenario)


def test_repeated_category_raises() -> None:
    with pytest.raises(UserError, match="contains b more than once"):
        split_into_tasks(["a", "b", "b"], "1-1")


def test_orders_are_permutations_of_their_data_set() -> None:
    all_categories = set(ORDERS["mvtec"])
    assert {name: len(order) for name, order in ORDERS.items() if set(order) == all_categories} == {
        name: 15 for name in ORDERS if name == "mvtec" or name.endswith("_first")
    }
    assert ORDERS["mvtec"] == tuple(sorted(all_categories))
    assert [len(ORDERS[name]) for name in ("visa", "mpdd", "interaction", "pilot")] == [12, 6, 5, 3]
    assert ORDERS["wood_first"][:2] == ("wood", "bottle")
    assert all(len(set(order)) == len(order) for order in ORDERS.values())


def test_order_seed_shuffles_the_categories() -> None:
    order = ORDERS["mvtec"]
    assert shuffled(order, None) == order
    orders = {shuffled(order, seed) for seed in range(4)}
    assert len(orders) == 4
    assert all(sorted(other) == sorted(order) for other in orders)
    assert shuffled(order, 2) == shuffled(order, 2)
    with pytest.raises(UserError, match=r"scenario\.order_seed=-1"):
        shuffled(order, -1)
